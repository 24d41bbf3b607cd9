"""Targets of every kind, of every output, with other inputs held constant: what is differentiated is what was named."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from lightwell import (
    Channel,
    Client,
    Contrast,
    Direction,
    Element,
    IntegratedGradients,
    InvalidArgumentError,
    Neuron,
    Occlusion,
    Saliency,
    SmoothGrad,
)
from lightwell.images import to_tensor
from lightwell.v1 import explain_pb2
from lightwell_server.local import Local
from lightwell_server.models.card import Card
from tests.methods.asking import PLAIN, Tokens
from tests.nets import Residual, export, seeded
from tests.serving import served

SIDE = 16
WORDS, LENGTH = 7, 4
FORMS = ("traced", "scripted", "pt2")
TOKENS = np.array([1, 4, 2, 6], np.int64)
DIFFERENTIATING = (
    "saliency",
    "input_x_gradient",
    "smooth_grad",
    "integrated_gradients",
    "guided_backprop",
    "deconvnet",
    "grad_cam",
    "grad_cam_plus_plus",
    "x_grad_cam",
    "hires_cam",
    "layer_cam",
    "guided_grad_cam",
    "segmentation",
)


class Captioner(nn.Module):
    """An image and the tokens so far to the scores of the next token at each place [n, LENGTH, WORDS]: one output of
    two."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.embed = nn.Embedding(WORDS, 6)
        self.hidden = nn.Linear(6, 6)
        self.out = nn.Linear(6, WORDS)

    def forward(self, image, tokens):
        seen = self.conv(image).relu().mean((2, 3))
        hidden = torch.tanh(self.hidden(self.embed(tokens) * seen[:, None]).cumsum(1))
        return {"words": self.out(hidden), "hidden": hidden}


class Headed(Residual):
    """Scores, and beside them a map and a number that does not depend on the image."""

    def __init__(self):
        super().__init__()
        self.side = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        return {"scores": self.head(self.conv(x).relu().mean((2, 3))), "map": self.side(x), "version": torch.ones(1)}


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def local(net, folder, form="scripted", side=SIDE, **card) -> Local:
    """The network, exported, answering in double precision; pixels as they are."""
    card = Card.model_validate({"input": {"size": (side, side), **PLAIN}, **card})
    return Local(export(net, form, folder, *card.sample().example(2)), card, dtype=torch.float64)


def gradient(local, image, target, **options):
    """What saliency differentiates, [3, H, W]."""
    method = Saliency(magnitude=False, channels=explain_pb2.Saliency.REDUCTION_NONE)
    seen = local.explain(image.numpy(), method, target=target, fit="exact", **options)
    return torch.from_numpy(seen.tensors["gradient"]).double(), seen


def wanted(score, image, *inputs):
    """The gradient of a score of rows, by autograd."""
    rows = image[None].clone().requires_grad_()
    return torch.autograd.grad(score(rows, *inputs).sum(), rows)[0][0]


def near(ours, theirs):
    """Tensors are sent in single precision."""
    return float((ours - theirs).abs().max()) <= 1e-6 * float(theirs.abs().max()) and bool(theirs.any())


CAPTIONER = {
    "inputs": {"tokens": {"shape": (LENGTH,), "dtype": "int64"}},
    "output": {"path": "words", "activation": "none"},
}


@pytest.mark.parametrize("form", FORMS)
def test_one_element_of_a_captioner_with_its_tokens_held(tmp_path, image, form):
    net, tokens = seeded(Captioner), torch.from_numpy(TOKENS)[None]
    with local(net, tmp_path, form, **CAPTIONER) as model:
        ours, seen = gradient(model, image, Element(index=[2, 5]), inputs={"tokens": TOKENS})
        other, _ = gradient(model, image, Element(index=[2, 5]), inputs={"tokens": TOKENS[::-1].copy()})
        hidden, told = gradient(model, image, Element(output="hidden", index=[3, 1]), inputs={"tokens": TOKENS})
    eager = net.double()
    assert near(ours, wanted(lambda rows: eager(rows, tokens)["words"][:, 2, 5], image))
    assert near(other, wanted(lambda rows: eager(rows, tokens.flip(1))["words"][:, 2, 5], image))
    assert near(hidden, wanted(lambda rows: eager(rows, tokens)["hidden"][:, 3, 1], image))
    assert seen.target.score == pytest.approx(float(eager(image[None], tokens)["words"][0, 2, 5]), abs=1e-6)
    assert list(seen.target.target.element.index) == [2, 5] and seen.target.target.element.output == "words"
    assert told.target.target.element.output == "hidden"


@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_every_method_explains_an_element_with_other_inputs(tmp_path, image, name):
    method = message(name, layer="conv")
    with local(seeded(Captioner), tmp_path, **CAPTIONER) as model:
        seen = model.explain(
            image.numpy(), method, target=Element(index=[1, 3]), inputs={"tokens": TOKENS}, fit="exact"
        )
    assert np.isfinite(seen.values).all() and seen.provenance.steps > 0
    if name == "integrated_gradients":
        total = seen.target.score - seen.measures["baseline_score"] + seen.measures["completeness_gap"]
        assert float(seen.values.sum()) == pytest.approx(total, abs=1e-5)


class Brightness(nn.Module):
    """A single number [n]."""

    def forward(self, x):
        return x.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("net", "card", "given"),
    [
        (Captioner, CAPTIONER, {"target": Element(index=[3, 6]), "inputs": {"tokens": TOKENS}}),
        (Brightness, {"output": {"activation": "none"}}, {"target": Element()}),
    ],
)
def test_an_element_of_any_shape_has_a_price_and_can_be_occluded(tmp_path, image, net, card, given):
    with local(seeded(net), tmp_path, **card) as model:
        for method, rows in ((Saliency(), 1), (IntegratedGradients(steps=4), 6), (SmoothGrad(samples=10_000), 10_001)):
            assert model.estimate(method, image.numpy(), fit="exact", **given).rows == rows
        seen = model.explain(image.numpy(), Occlusion(window=8, stride=8), fit="exact", **given)
    assert seen.values.shape == (2, 2) and seen.values.any() and list(seen.tensors) == ["value"]


def message(name, **given):
    """A method's message, with those of the parameters that it has."""
    kind = explain_pb2.ExplainRequest.DESCRIPTOR.fields_by_name[name].message_type
    return kind._concrete_class(**{key: value for key, value in given.items() if key in kind.fields_by_name})


TARGETS = {
    "class": (3, lambda scores, stem: scores[:, 3]),
    "unset": (None, lambda scores, stem: scores.amax(1)),
    "contrast": (Contrast(class_index=3, against=1), lambda scores, stem: scores[:, 3] - scores[:, 1]),
    "neuron": (Neuron(layer="stem", channel=2, row=5, column=9), lambda scores, stem: stem[:, 2, 5, 9]),
    "middle": (Neuron(layer="stem", channel=2), lambda scores, stem: stem[:, 2, 8, 8]),
    "channel": (Channel(layer="stem", channel=4), lambda scores, stem: stem[:, 4].mean((1, 2))),
    "element": (Element(index=[2]), lambda scores, stem: scores[:, 2]),
    "score as a channel": (Channel(channel=2), lambda scores, stem: scores[:, 2]),
    "direction": (
        Direction(layer="stem", vector=to_tensor(np.linspace(-1, 1, 8))),
        lambda scores, stem: (stem.mean((2, 3)) * torch.linspace(-1, 1, 8, dtype=torch.float64)).sum(1),
    ),
}
IN_WORDS = {
    "class": "class 3",
    "contrast": "class 3 against 1",
    "neuron": "neuron stem:2 at 5, 9",
    "middle": "neuron stem:2 at 8, 8",
    "channel": "channel stem:4",
    "element": "output [2]",
    "score as a channel": "channel output:2",
    "direction": "a direction at stem",
}
READINGS = {
    "score": lambda scores: scores,
    "probability": lambda scores: scores.softmax(1),
    "log_probability": lambda scores: scores.log_softmax(1),
}


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    with local(seeded(Residual), tmp_path_factory.mktemp("targets")) as model:
        yield model


@pytest.fixture(scope="module")
def eager():
    return seeded(Residual).double()


@pytest.mark.parametrize("kind", TARGETS)
def test_the_gradient_is_that_of_the_target(residual, eager, image, kind):
    target, score = TARGETS[kind]
    ours, seen = gradient(residual, image, target)
    assert near(ours, wanted(lambda rows: score(eager(rows), eager.stem(rows)), image))
    assert seen.target.score == pytest.approx(float(score(eager(image[None]), eager.stem(image[None]))), abs=1e-6)
    assert IN_WORDS.get(kind, "class") in repr(seen)
    resolved = seen.message.resolved
    again, _ = gradient(residual, image, resolved.target)
    assert torch.equal(ours, again)


@pytest.mark.parametrize("name", ["eigen_cam", "activations", "embedding"])
def test_what_looks_at_no_target_claims_none(residual, image, name):
    seen = residual.explain(image.numpy(), message(name, layer="stem"), target=3, fit="exact")
    assert not seen.message.HasField("target") and not seen.message.resolved.HasField("target")
    with pytest.raises(InvalidArgumentError, match="no class"):
        residual.explain(image.numpy(), message(name, layer="stem"), target=99, fit="exact")


def test_the_tokens_of_a_transformer_have_channels_and_places(tmp_path, image):
    """Sixteen tokens behind a class token are four rows of four."""
    eager, weights = seeded(Tokens).double(), torch.linspace(-1, 1, 8, dtype=torch.float64)
    targets = [
        (Neuron(layer="norm", channel=2, row=1, column=3), lambda tokens: tokens[:, 1 + 4 + 3, 2]),
        (Channel(layer="norm", channel=2), lambda tokens: tokens[:, 1:, 2].mean(1)),
        (Direction(layer="norm", vector=to_tensor(weights.numpy())), lambda t: t[:, 1:].mean(1) @ weights),
    ]
    tokens = []
    eager.norm.register_forward_hook(lambda module, given, out: tokens.append(out))
    with local(seeded(Tokens), tmp_path) as model:
        for target, score in targets:
            ours, seen = gradient(model, image, target)
            theirs = wanted(lambda rows, score=score: (eager(rows), score(tokens[-1]))[1], image)
            assert near(ours, theirs) and seen.target.score == pytest.approx(float(score(tokens[-1])), abs=1e-6)


@pytest.mark.parametrize("readout", READINGS)
@pytest.mark.parametrize("kind", ["class", "unset", "contrast"])
def test_the_gradient_is_that_of_the_reading(residual, eager, image, kind, readout):
    target, score = TARGETS[kind]
    ours, seen = gradient(residual, image, target, readout=readout)
    assert near(ours, wanted(lambda rows: score(READINGS[readout](eager(rows)), None), image))
    assert seen.target.score == pytest.approx(float(score(READINGS[readout](eager(image[None])), None)), abs=1e-6)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_every_method_takes_every_target(residual, image, name, kind):
    """What its map means is tested with each method; here that none of the targets is refused or lost on the way."""
    target, _ = TARGETS[kind]
    seen = residual.explain(image.numpy(), message(name, layer="stem"), target=target, fit="exact")
    field = seen.message.resolved.target.WhichOneof("target")
    expected = {"unset": "class_index", "class": "class_index", "middle": "neuron", "score as a channel": "channel"}
    assert field == expected.get(kind, kind)
    assert np.isfinite(seen.values).all()
    if name == "saliency":
        assert seen.values.any()


@pytest.mark.parametrize("readout", READINGS)
@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_every_method_takes_every_reading(residual, image, name, readout):
    seen = residual.explain(image.numpy(), message(name, layer="stem"), target=3, readout=readout, fit="exact")
    assert seen.message.resolved.target.readout == {"score": 1, "probability": 2, "log_probability": 3}[readout]
    assert np.isfinite(seen.values).all()


@pytest.mark.parametrize("form", FORMS)
def test_other_outputs_of_a_dict(tmp_path, image, form):
    net = seeded(Headed)
    with local(net, tmp_path, form) as model:
        outputs = [(output.path, list(output.shape), output.main) for output in model._described.outputs]
        ours, seen = gradient(model, image, Element(output="map", index=[1, 3, 12]))
        main, _ = gradient(model, image, Element(output="scores", index=[4]))
    assert sorted(outputs) == [("map", [2, 16, 16], False), ("scores", [5], True)]
    eager = net.double()
    assert near(ours, wanted(lambda rows: eager(rows)["map"][:, 1, 3, 12], image))
    assert near(main, wanted(lambda rows: eager(rows)["scores"][:, 4], image))
    assert not seen.target.HasField("probability") and not seen.predictions


class Liar(Residual):
    """Beside its scores it gives what rows have in common."""

    def forward(self, x):
        scores = self.head(self.relu(self.norm(self.stem(x))).mean((2, 3)))
        return {"scores": scores, "shared": (scores - scores.mean(0))[..., None]}


def test_an_output_that_mixes_rows_is_left_out(tmp_path, image):
    with local(seeded(Liar), tmp_path) as model:
        assert [output.path for output in model._described.outputs] == ["scores"]
        assert any("'shared' cannot be explained" in note for note in model._described.notes)
        assert model._described.batches


@pytest.mark.parametrize("form", ["scripted", "traced", "pt2"])
def test_a_segmentation_network_for_a_classs_channel_and_for_one_pixel(tmp_path, form):
    side = 64
    torch.manual_seed(0)
    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    image = torch.rand(3, side, side, dtype=torch.float64)
    with local(net, tmp_path, form, side, output={"path": "out"}) as model:
        channel, seen = gradient(model, image, Channel(channel=8))
        pixel, told = gradient(model, image, Element(index=[8, 20, 33]))
        same, _ = gradient(model, image, Neuron(channel=8, row=20, column=33))
        with pytest.raises(InvalidArgumentError, match=r"\[21, 64, 64\] is no scores of classes; name a channel"):
            model.explain(image.numpy(), Saliency(), fit="exact")
    eager = net.double()
    assert near(channel, wanted(lambda rows: eager(rows)["out"][:, 8].mean((1, 2)), image))
    assert near(pixel, wanted(lambda rows: eager(rows)["out"][:, 8, 20, 33], image))
    assert torch.equal(pixel, same)
    assert not seen.predictions and told.target.target.element.output == "out"


BAD = {
    "no such output": (Element(output="wrods", index=[0]), "target.element.output", "no output 'wrods'"),
    "too few places": (Element(), "target.element.index", r"\[\] is no place in an output of shape \[5\]"),
    "too many places": (Element(index=[1, 1]), "target.element.index", "is no place"),
    "beyond the end": (Element(index=[5]), "target.element.index", "is no place"),
    "below zero": (Element(index=[-1]), "target.element.index", "is no place"),
    "no such layer": (Direction(layer="stm"), "target.direction.layer", "no layer 'stm'"),
    "no vector": (Direction(layer="stem"), "target.direction.vector.dtype", "must be set"),
    "too short": (
        Direction(layer="stem", vector=to_tensor(np.ones(7))),
        "target.direction.vector",
        r"has shape \[7\]; the layer has 8 channels",
    ),
    "not finite": (
        Direction(layer="stem", vector=to_tensor(np.full(8, np.nan))),
        "target.direction.vector",
        "must be finite",
    ),
    "whole numbers": (
        Direction(layer="stem", vector=to_tensor(np.ones(8, np.int32))),
        "target.direction.vector",
        "of a floating type",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_target_is_told(residual, image, kind):
    target, field, words = BAD[kind]
    with pytest.raises(InvalidArgumentError, match=words) as told:
        residual.explain(image.numpy(), Saliency(), target=target, fit="exact")
    assert told.value.violations[0][0] == field


@pytest.mark.parametrize("target", [Element(index=[1]), Direction(layer="stem", vector=to_tensor(np.ones(8)))])
def test_only_classes_have_probabilities(residual, image, target):
    with pytest.raises(InvalidArgumentError, match="only classes have probabilities"):
        residual.explain(image.numpy(), Saliency(), target=target, readout="probability", fit="exact")


def test_through_a_server(tmp_path, image):
    """Tokens and all, over a socket, beside requests with other tokens."""
    place = tmp_path / "captioner" / "1"
    place.mkdir(parents=True)
    net = seeded(Captioner)
    inputs = torch.rand(2, 3, SIDE, SIDE), torch.ones(2, LENGTH, dtype=torch.long)
    export(net, "scripted", place, *inputs).rename(place / "model.pt")
    (place / "card.toml").write_text(
        f"[input]\nsize = [{SIDE}, {SIDE}]\nmean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\n"
        f'[output]\npath = "words"\nactivation = "none"\n[inputs.tokens]\nshape = [{LENGTH}]\ndtype = "int64"\n'
    )
    captions = [np.random.default_rng(i).integers(0, WORDS, LENGTH) for i in range(6)]
    pixels = image.float().numpy()
    with served(tmp_path) as server, Client(server.address) as client:
        assert list(client.model().inputs) == ["tokens"]
        method, element = Saliency(magnitude=False, channels="REDUCTION_NONE"), Element(index=[3, 2])
        for tokens in captions:
            seen = client.explain(pixels, method, target=element, inputs={"tokens": tokens}, fit="exact")
            theirs = wanted(
                lambda rows, t=tokens: net(rows, torch.from_numpy(t)[None])["words"][:, 3, 2], image.float()
            )
            assert float((torch.from_numpy(seen.tensors["gradient"]) - theirs).abs().max()) <= 1e-4 * theirs.abs().max()
        with pytest.raises(InvalidArgumentError, match="the model needs this input"):
            client.explain(pixels, method, target=element, fit="exact")
