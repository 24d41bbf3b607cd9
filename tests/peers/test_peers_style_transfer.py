"""Style transfer's objective and its gradient are those of a few eager lines with hooks and autograd, at every step
that it takes."""

import pytest
import torch
import torch.nn.functional as F

from lightwell_server.catalog import catalog
from lightwell_server.contract import GRAD, Ask, Frame
from lightwell_server.methods._math import gram
from tests.peers.files import SCRIPTED, SIDE, SMALL, SMALL_FILES
from tests.peers.twins import agree, picture

WEIGHTS = {"content_weight": 5.0, "style_weight": 100.0, "tv_weight": 0.5}
STARTS = ("content", "noise")


def eager_gram(features):
    """G = F F' / M of one picture."""
    flat = features[0].flatten(1)
    return torch.einsum("am,bm->ab", flat, flat) / flat.shape[1]


def apart(value, aim):
    return ((value - aim) ** 2).sum() / (aim**2).sum()


class Eager:
    """The objective on the twin, the layers of each kind weighing the same; `styles` are pictures with weights."""

    def __init__(self, case, styles):
        defaults = catalog()["style_transfer"].defaults(case.model.facts)
        self.content = [part["layer"] for part in defaults["content_layers"]]
        self.style = [part["layer"] for part in defaults["style_layers"]]
        self.twin = case.twin
        self.features = self.twin.features(case.image, self.content)
        total = sum(weight for _, weight in styles)
        grams = [[w / total * eager_gram(f) for f in self.twin.features(image, self.style)] for image, w in styles]
        self.grams = [sum(each) for each in zip(*grams, strict=True)]

    def network(self, x):
        """The weighted content and style losses."""
        values = self.twin.features(x, [*self.content, *self.style])
        own, styled = values[: len(self.content)], values[len(self.content) :]
        content = sum(map(apart, own, self.features)) / len(own)
        style = sum(map(apart, map(eager_gram, styled), self.grams)) / len(styled)
        return WEIGHTS["content_weight"] * content + WEIGHTS["style_weight"] * style

    def whole(self, x):
        """With the mean squared difference of neighbours."""
        rough = ((x[..., 1:, :] - x[..., :-1, :]) ** 2).sum() + ((x[..., 1:] - x[..., :-1]) ** 2).sum()
        return self.network(x) + WEIGHTS["tv_weight"] * rough / x.numel()


def style(seed=1, weight=1.0, **size):
    return {"image": picture(seed, **size), "weight": weight}


def asked(case, **given):
    """The steps of one run: each Ask for a gradient with its answer; the frames; the result."""
    seen = []
    result = case.ask("style_transfer", seen=seen, size=SIDE, **{**WEIGHTS, **given})
    steps = [(step, reply) for step, reply in seen if isinstance(step, Ask) and step.want & GRAD]
    return steps, [step for step, _ in seen if isinstance(step, Frame)], result


def gradient(score, x):
    x = x.clone().requires_grad_()
    value = score(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
@pytest.mark.parametrize("start", STARTS)
def test_first_question(case, start):
    eager = Eager(case, [(picture(1), 1)])
    ((ask, answer),), (frame,), result = asked(case, styles=[style()], start=start, steps=1, seed=3)
    assert torch.equal(ask.rows, case.image) is (start == "content")
    value, grad = gradient(eager.network, ask.rows)
    agree(answer.score, value.view(1))
    agree(answer.grad, grad)
    whole = eager.whole(ask.rows)
    agree(frame.objective, whole)
    agree(result.measures["objective"], whole)


def following(optimizer, x):
    """The library's own algorithm with the settings of ours, one evaluation a step."""
    if optimizer == "adam":
        return torch.optim.Adam([x], lr=0.02)
    return torch.optim.LBFGS([x], lr=1, max_iter=1, history_size=10, tolerance_grad=0, tolerance_change=0)


@pytest.mark.parametrize("case", SCRIPTED, indirect=True)
@pytest.mark.parametrize(("start", "optimizer"), [("content", "lbfgs"), ("noise", "adam")])
def test_every_step(case, optimizer, start):
    eager = Eager(case, [(picture(1), 1)])
    steps, frames, result = asked(case, styles=[style()], start=start, steps=3, optimizer=optimizer)
    x = steps[0][0].rows.clone().requires_grad_()
    algorithm = following(optimizer, x)

    def closure():
        algorithm.zero_grad()
        objective = eager.whole(x) * x.numel()
        objective.backward()
        return objective

    for frame in frames:
        agree(frame.objective, eager.whole(x.detach()))
        algorithm.step(closure)
        x.detach().clamp_(0, 1)
        agree(frame.image, x.detach())
    agree(result.image, x.detach())
    assert (x.detach() - steps[0][0].rows).abs().max() > 1e-4, "a picture that stays where it was proves nothing"


@pytest.mark.parametrize("case", [f"{name}-{form}" for name in SMALL for form in ("traced", "scripted")], indirect=True)
def test_several_styles_are_the_weighted_mean_of_their_grams(case):
    # Pictures of different sizes: Gram matrices are means over positions, so they may be averaged as they are.
    eager = Eager(case, [(picture(1), 3.0), (picture(2, 48, 64), 1.0)])
    given = [style(1, 3.0), style(2, 1.0, height=48, width=64)]
    ((ask, answer),), _, _ = asked(case, styles=given, steps=1)
    for ours, theirs in zip(ask.score.grams, eager.grams, strict=True):
        agree(ours[0], theirs)
    value, grad = gradient(eager.network, ask.rows)
    agree(answer.score, value.view(1))
    agree(answer.grad, grad)


@pytest.mark.parametrize("case", SCRIPTED, indirect=True)
def test_style_scale_resizes_the_style(case):
    smaller = F.interpolate(picture(1, 96, 128), size=(36, 48), mode="bilinear", antialias=True)
    ((ask, _),), _, _ = asked(case, styles=[style(1, height=96, width=128)], style_scale=0.75, steps=1)
    for ours, theirs in zip(ask.score.grams, Eager(case, [(smaller, 1)]).grams, strict=True):
        agree(ours[0], theirs)


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
def test_nothing_at_all_is_one_away(case):
    ((ask, _),), _, _ = asked(case, styles=[style()], steps=1)
    loss = ask.score
    nothing = tuple(torch.zeros_like(f) for f in case.twin.features(case.image, loss.layers))
    agree(loss(nothing, torch.zeros(1)), torch.tensor([WEIGHTS["content_weight"] + WEIGHTS["style_weight"]]))
    there = (*loss.features, *nothing[len(loss.features) :])
    agree(loss(there, torch.zeros(1)), torch.tensor([WEIGHTS["style_weight"]]))


def test_gram_is_a_mean_over_positions():
    features = torch.randn(2, 5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    agree(gram(features), torch.stack([eager_gram(row[None]) for row in features]))
    agree(gram(torch.cat([features, features], 3)), gram(features))
