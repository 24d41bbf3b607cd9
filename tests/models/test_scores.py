"""What a classifier's scores are: read before its final activation however that is written, taken as they are where
they are probabilities that cannot be undone, and two of them for a yes and a no."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell import Element, GradCam, InvalidArgumentError, NotApplicableError, Occlusion, Pgd, Predictions, Saliency
from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.local import Local
from lightwell_server.models.answer import answer
from lightwell_server.models.card import Card
from lightwell_server.models.lifting.lift import Sample, lift
from tests.nets import PLAIN, export, seeded

SIDE = 16
EXACT = {
    "clamped": ("sigmoid", lambda y, z: y.sigmoid().clamp(1e-6, 1 - 1e-6)),
    "in double and back": ("sigmoid", lambda y, z: y.double().sigmoid().float()),
    "two heads": ("sigmoid", lambda y, z: torch.cat([y.sigmoid(), z.sigmoid().clamp(max=0.999)], 1)),
    "one over": ("sigmoid", lambda y, z: 1 / (1 + torch.exp(-y))),
    "one over, turned": ("sigmoid", lambda y, z: 1.0 / (torch.exp(-1 * y) + 1.0)),
    "share of one and it": ("sigmoid", lambda y, z: _share(y)),
    "logarithm of a sigmoid": ("sigmoid", lambda y, z: F.logsigmoid(y)),
    "per cent": ("softmax", lambda y, z: y.softmax(1) * 100),
    "by temperature": ("softmax", lambda y, z: (y / 2).softmax(-1)),
    "exponential of logarithms": ("softmax", lambda y, z: y.log_softmax(1).exp()),
    "logarithm of a softmax": ("softmax", lambda y, z: y.softmax(1).log()),
    "by hand": ("softmax", lambda y, z: _shares(y - y.amax(1, keepdim=True))),
    "by hand, unshifted": ("softmax", lambda y, z: _shares(y)),
    "logarithm to the base 10": ("softmax", lambda y, z: y.softmax(1).log10()),
    "clamped logarithm": ("softmax", lambda y, z: y.log_softmax(1).clamp(min=-100)),
    "of a convolution": ("softmax", lambda y, z: y[:, :, None, None].softmax(1).flatten(1)),
}
INEXACT = {
    "two softmaxes": lambda y, z: torch.cat([y.softmax(1), z.softmax(1)], 1),
    "narrow clamp": lambda y, z: y.sigmoid().clamp(0.2, 0.8),
    "hard sigmoid": lambda y, z: F.hardsigmoid(y),
    "hyperbolic tangent": lambda y, z: (torch.tanh(y / 2) + 1) / 2,
    "other base": lambda y, z: 2**y / (2**y).sum(1, keepdim=True),
    "five times": lambda y, z: 5 * y.sigmoid(),
    "clamped per cent": lambda y, z: (100 * y.softmax(1)).clamp(max=1),
    "mean of two": lambda y, z: (y.softmax(1) + y.sigmoid().softmax(1)) / 2,
    "divided by the first row's sum": lambda y, z: _by_first(y),
}


def _share(y):
    exponential = y.exp()
    return exponential / (1 + exponential)


def _shares(y):
    exponential = y.exp()
    return exponential / exponential.sum(1, keepdim=True)


def _by_first(y):
    exponential = (y - y.amax(1, keepdim=True)).exp()
    return exponential / exponential.sum(1, keepdim=True)[0]


class Ends(nn.Module):
    """Four scores with some contrast, and three others, through a function."""

    def __init__(self, end):
        super().__init__()
        self.end, self.conv = end, nn.Conv2d(3, 8, 3)
        self.fc, self.other = nn.Linear(8, 4), nn.Linear(8, 3)
        with torch.no_grad():
            self.fc.weight.mul_(8)

    def scores(self, x):
        features = self.conv(x).relu().mean((2, 3))
        return self.fc(features), self.other(features)

    def forward(self, x):
        return self.end(*self.scores(x))


def traced(net, tmp_path):
    return export(net, "traced", tmp_path, torch.rand(2, 3, SIDE, SIDE))


def card(**rest):
    return Card.model_validate({"input": {"size": [SIDE, SIDE], "mean": [0, 0, 0], "std": [1, 1, 1]}, **rest})


def image(seed=0):
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", EXACT)
def test_scores_are_read_before_an_activation_however_it_is_written(tmp_path, kind):
    activation, end = EXACT[kind]
    net = seeded(Ends, end)
    with Local(traced(net, tmp_path), card()) as local:
        seen = local.explain(image().numpy(), Predictions(k=2), fit="exact")
        y, z = net.scores(image()[None])
        scores = torch.cat([y, z], 1) if kind == "two heads" else y / 2 if kind == "by temperature" else y
        given = scores.softmax(1) if activation == "softmax" else scores.sigmoid()
        assert local.model.facts.activation == activation
        for prediction in seen.predictions:
            assert prediction.score == pytest.approx(float(scores[0, prediction.class_index]), abs=1e-4)
            assert prediction.probability == pytest.approx(float(given[0, prediction.class_index]), abs=1e-4)


@pytest.mark.parametrize("kind", INEXACT)
def test_probabilities_that_cannot_be_undone_are_the_scores_and_called_nothing_else(tmp_path, kind):
    net = seeded(Ends, INEXACT[kind])
    with Local(traced(net, tmp_path), card()) as local:
        first = local.explain(image().numpy(), Predictions(k=1), fit="exact").predictions[0]
        assert local.model.facts.activation == "none"
        assert any("are the scores" in note for note in local.model.graph.notes)
        assert first.probability == 0
        assert first.score == pytest.approx(float(net(image()[None])[0, first.class_index]), abs=1e-5)


def test_scores_that_happen_to_lie_between_zero_and_one_are_scores(tmp_path):
    net = seeded(Ends, lambda y, z: y * 0.01 + 0.5)
    with Local(traced(net, tmp_path), card()) as local:
        assert local.model.facts.activation == "softmax"


class One(nn.Module):
    """One score an image, through a function."""

    def __init__(self, end):
        super().__init__()
        self.end, self.conv, self.relu, self.fc = end, nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 1)

    def score(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))

    def forward(self, x):
        return self.end(self.score(x))


VECTORS = {
    "squeeze(1)": lambda y: y.sigmoid().squeeze(1),
    "squeeze()": lambda y: y.sigmoid().squeeze(),
    "[:, 0]": lambda y: y.sigmoid()[:, 0],
    "view(-1)": lambda y: y.view(-1).sigmoid(),
    "flatten": lambda y: y.sigmoid().flatten(),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_one_score_an_image_without_a_dimension_of_its_own(tmp_path, kind):
    net = seeded(One, VECTORS[kind])
    graph = lift(traced(net, tmp_path), Sample((SIDE, SIDE), **PLAIN))
    x = torch.rand(3, 3, SIDE, SIDE)
    for rows in (x, x[:1]):
        got = answer(graph, [Part(Ask(rows, lambda v, i: v[:, 1], want=OUT | GRAD), 0, len(rows))])[0]
        assert torch.allclose(got.out, torch.cat([-net.score(rows), net.score(rows)], 1), atol=1e-6)


@pytest.mark.parametrize("end", [lambda y: y, lambda y: y.squeeze(1)])
def test_a_regression_stays_one_value(tmp_path, end):
    net = seeded(One, end)
    for given in ({}, {"output": {"activation": "none"}}):
        with Local(traced(net, tmp_path), card(**given)) as local:
            seen = local.explain(image().numpy(), Saliency(), fit="exact")
            assert (local.model.facts.classes, local.model.facts.activation) == (1, "none")
            assert seen.target.score == pytest.approx(float(net.score(image()[None])), abs=1e-5)
            assert local.explain(image().numpy(), Occlusion(window=8, stride=8), fit="exact").values.any()
            element = local.explain(image().numpy(), Saliency(), target=Element(), fit="exact")
            assert torch.equal(torch.tensor(element.map), torch.tensor(seen.map))


@pytest.mark.parametrize(
    ("end", "given"),
    [
        (lambda y: 5 * y.sigmoid(), {}),
        (lambda y: 5 * y.sigmoid().squeeze(1), {"output": {"activation": "none"}}),
        (lambda y: y.sigmoid(), {"output": {"activation": "none"}}),
    ],
)
def test_a_bounded_value_is_what_the_file_gives(tmp_path, end, given):
    net = seeded(One, end)
    with Local(traced(net, tmp_path), card(**given)) as local:
        seen = local.explain(image().numpy(), Saliency(), fit="exact")
        assert (local.model.facts.classes, local.model.facts.activation) == (1, "none")
        assert seen.target.score == pytest.approx(float(net(image()[None])), abs=1e-5)


def test_negative_logarithms_are_no_probabilities(tmp_path):
    net = seeded(Ends, lambda y, z: -y.log_softmax(1))
    with Local(traced(net, tmp_path), card()) as local:
        assert not any("probabilities" in note for note in local.model.graph.notes)


def test_an_activation_is_not_applied_twice(tmp_path):
    net = seeded(Ends, lambda y, z: y.softmax(1))
    twice = card(output={"scores": "as_returned", "activation": "softmax"})
    with pytest.raises(NotApplicableError, match="applies softmax to what the file's final softmax returns"):
        Local(traced(net, tmp_path), twice)


SIGMOID = {
    "sigmoid": (lambda y: y.sigmoid(), {}),
    "scores, told by the card": (lambda y: y, {"output": {"activation": "sigmoid"}}),
    "scores with two labels": (lambda y: y.squeeze(1), {"output": {"labels": ["no", "yes"]}}),
}


@pytest.mark.parametrize("kind", SIGMOID)
@pytest.mark.parametrize("value", [-0.02, 0.02])
def test_the_answer_that_the_model_gave_is_explained_be_it_no(tmp_path, kind, value):
    end, given = SIGMOID[kind]
    net = seeded(One, end)
    with torch.no_grad():
        net.fc.bias += value - net.score(image()[None])[0]
    labelled = {"output": {**given.get("output", {}), "labels": ["no", "yes"]}}
    x = image()[None].requires_grad_()
    score = net.score(x)[0, 0]
    (gradient,) = torch.autograd.grad(score, x)
    says = int(score > 0)
    with Local(traced(net, tmp_path), card(**labelled)) as local:
        whole = Saliency(magnitude=False, channels="REDUCTION_NONE")
        for target, sign in ((None, 2 * says - 1), ("no", -1), ("yes", 1), (0, -1), (1, 1)):
            seen = local.explain(image().numpy(), whole, target=target, fit="exact")
            assert torch.allclose(torch.tensor(seen.tensors["gradient"]), sign * gradient[0], atol=1e-6)
            assert seen.target.score == pytest.approx(sign * float(score), abs=1e-5)
            assert seen.target.probability == pytest.approx(float(torch.sigmoid(sign * score)), abs=1e-5)
        assert seen.predictions[0].label == ("no", "yes")[says]
        maps = [local.explain(image().numpy(), GradCam(relu=False), target=t, fit="exact").map for t in ("no", "yes")]
        assert maps[0].any() and (maps[0] == -maps[1]).all()
        attacked = local.synthesize(Pgd(epsilon=0.5, step=0.1, steps=40), image=image().numpy(), fit="exact").result()
        assert attacked.before[0].class_index == says
        assert attacked.succeeded and attacked.after[0].class_index == 1 - says


def test_probabilities_kept_as_they_are_have_a_rest(tmp_path):
    net = seeded(One, lambda y: y.sigmoid())
    with Local(traced(net, tmp_path), card(output={"scores": "as_returned", "labels": ["no", "yes"]})) as local:
        seen = local.explain(image().numpy(), Predictions(), fit="exact")
        chance = float(net(image()[None]))
        scores = {prediction.label: prediction.score for prediction in seen.predictions}
        assert scores == pytest.approx({"yes": chance, "no": 1 - chance}, abs=1e-5)


def test_a_class_that_is_neither_yes_nor_no_is_refused(tmp_path):
    with (
        Local(traced(seeded(One, lambda y: y.sigmoid()), tmp_path), card()) as local,
        pytest.raises(InvalidArgumentError, match="the model has 2, from 0 to 1"),
    ):
        local.explain(image().numpy(), Saliency(), target=2, fit="exact")
