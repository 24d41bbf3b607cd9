"""The form in which a file takes its images, as its card says it: the scores are the file's, the gradients the eager
network's, in every kind of file."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from lightwell import (
    AblationCam,
    Activations,
    GradCam,
    IntegratedGradients,
    InvalidArgumentError,
    NotApplicableError,
    Occlusion,
    Pgd,
    Saliency,
    StyleTransfer,
)
from lightwell.images import to_message
from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.errors import Refused
from lightwell_server.importing import add as bring
from lightwell_server.importing.given import Given
from lightwell_server.importing.inspection import inspect
from lightwell_server.local import Local
from lightwell_server.models.answer import answer
from lightwell_server.models.card import Card, read
from lightwell_server.models.lifting.lift import lift
from lightwell_server.models.lifting.pixels import example
from lightwell_server.runtime.describe import described
from tests.nets import FORMS, seeded
from tests.test_laws import METHODS, PICTURES, ask, numbers

SIDE = 16
MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.2)


class Small(nn.Module):
    """A classifier whose scores tell the channels and the places of an image apart."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 6, 3, stride=2), nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x).sigmoid()
        return self.head((x * x.flatten(2).cumsum(2).view_as(x)).mean((2, 3)))


class Around(nn.Module):
    """A network in the form that a file is written in."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.net = Small(channels)


class ChannelsLast(Around):
    def forward(self, x):
        return self.net(x.permute(0, 3, 1, 2))


class Integers(Around):
    def forward(self, x):
        return self.net((x.float() / 255 - 0.5) / 0.25)


class IntegersLast(Around):
    def forward(self, x):
        return self.net(x.permute(0, 3, 1, 2).contiguous().to(torch.float32).div(127.5).sub(1))


class Asserting(Around):
    """A script that asks what it is given."""

    def forward(self, x):
        if x.dtype == torch.uint8:
            x = x.float().mul(1 / 255)
        return self.net(x)


class Single(Around):
    def forward(self, x):
        return self.net(x[None])[0]


class SingleKept(Around):
    """Without a batch it takes its image, with one it gives its scores."""

    def forward(self, x):
        return self.net(x.unsqueeze(0))


class Unbatched(nn.Module):
    """No batch anywhere: the layers are [channels, height, width]."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((1, 2)))


class SingleLast(Around):
    def forward(self, x):
        return self.net(x.permute(2, 0, 1)[None].float() / 255)[0]


class Listed(Around):
    def forward(self, images: list[torch.Tensor]):
        return self.net(torch.stack(images))


CASES = {
    "channels last": (ChannelsLast, {"layout": "nhwc", "mean": MEAN, "std": STD}, "normalised"),
    "integers": (Integers, {"dtype": "uint8"}, lambda net, rows: net((rows - 0.5) / 0.25)),
    "integers, channels last": (
        IntegersLast,
        {"dtype": "uint8", "layout": "nhwc"},
        lambda net, rows: net(rows * 2 - 1),
    ),
    "blue first": (Small, {"order": "bgr", "mean": MEAN, "std": STD}, "turned"),
    "one image": (Single, {"batch": False}, "imagenet"),
    "one image, scores in a batch": (SingleKept, {"batch": False}, "imagenet"),
    "one image, no batch anywhere": (Unbatched, {"batch": False}, "each"),
    "one image of integers, channels last, blue first": (
        SingleLast,
        {"batch": False, "dtype": "uint8", "layout": "nhwc", "order": "bgr"},
        lambda net, rows: net(rows.flip(1)),
    ),
}


def normalised(rows, mean, std):
    return (rows - torch.tensor(mean).double().view(1, 3, 1, 1)) / torch.tensor(std).double().view(1, 3, 1, 1)


def truth(net, how, rows):
    """The eager network's scores of RGB rows in [0, 1], in double precision."""
    inner = getattr(net, "net", net).double()
    if how == "normalised":
        return inner(normalised(rows, MEAN, STD))
    if how == "turned":
        return inner(normalised(rows.flip(1), MEAN, STD))
    imagenet = Card().normalisation
    if how == "imagenet":
        return inner(normalised(rows, *imagenet))
    if how == "each":
        return torch.stack([inner(row) for row in normalised(rows, *imagenet)])
    return how(inner, rows)


def written(net, form, directory, sample):
    """The network as a file that takes what the card says; its batch, if it has one, is dynamic."""
    path, inputs = directory / f"model.{'pt2' if form == 'pt2' else 'pt'}", example(sample, 2)
    with warnings.catch_warnings(action="ignore"):
        if form == "traced":
            torch.jit.trace(net, tuple(inputs), check_trace=False).save(path)
        elif form == "scripted":
            torch.jit.script(net).save(path)
        else:
            shapes = ({0: torch.export.Dim("batch")},) if sample.batch is not False else None
            torch.export.save(torch.export.export(net, tuple(inputs), dynamic_shapes=shapes), path)
    return path


def asked(graph, rows):
    """Scores, and the gradient of the second score, of rows in one step."""
    part = Part(Ask(rows, lambda scores, index: scores[:, 1], want=OUT | GRAD), 0, len(rows))
    (got,) = answer(graph, [part])
    return got.out, got.grad


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_files_and_gradients_those_of_the_pixels(tmp_path, case, form):
    make, options, how = CASES[case]
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], **options}})
    net = seeded(make)
    graph = lift(written(net, form, tmp_path, card.sample()), card.sample()).to("cpu", torch.float64)
    rows = card.sample().rows(3, seed=9, dtype=torch.float64)[0].requires_grad_()
    scores = truth(net, how, rows)
    got, grad = asked(graph, rows.detach())
    assert torch.allclose(got, scores, atol=1e-6) and not graph.row_by_row
    assert torch.allclose(grad, torch.autograd.grad(scores[:, 1].sum(), rows)[0], atol=1e-6)


def test_a_list_of_one_image_is_taken_as_one_image(tmp_path):
    net, card = seeded(Listed), Card.model_validate({"input": {"size": [SIDE, SIDE]}})
    torch.jit.script(net).save(tmp_path / "model.pt")
    graph = lift(tmp_path / "model.pt", card.sample()).to("cpu", torch.float64)
    rows = torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64).requires_grad_()
    scores = truth(net, "imagenet", rows)
    got, grad = asked(graph, rows.detach())
    assert torch.allclose(got, scores, atol=1e-6)
    assert torch.allclose(grad, torch.autograd.grad(scores[:, 1].sum(), rows)[0], atol=1e-6)


class Flagged(Around):
    def forward(self, images: list[torch.Tensor], targets: list[torch.Tensor] | None = None, double: bool = False):
        scores = self.net(images[0][None])
        return {"scores": scores * 2 if double else scores}


def test_a_list_with_arguments_behind_it_has_those_of_the_card(tmp_path):
    net = seeded(Flagged)
    torch.jit.script(net).save(tmp_path / "model.pt")
    (tmp_path / "card.toml").write_text("[input]\nsize = [16, 16]\n[arguments]\ndouble = true\n")
    card, _ = read(tmp_path, tmp_path)
    graph, rows = lift(tmp_path / "model.pt", card.sample()), torch.rand(2, 3, SIDE, SIDE)
    assert torch.allclose(asked(graph, rows)[0], 2 * truth(net, "imagenet", rows.double()).float(), atol=1e-5)


def test_a_script_that_asks_for_its_inputs_type_is_told_the_files(tmp_path):
    net, card = seeded(Asserting), Card.model_validate({"input": {"size": [SIDE, SIDE], "dtype": "uint8"}})
    torch.jit.script(net).save(tmp_path / "model.pt")
    graph = lift(tmp_path / "model.pt", card.sample())
    rows = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    assert torch.allclose(asked(graph, rows / 255)[0], net(rows), atol=1e-5)


class Halved(Around):
    def forward(self, x):
        return self.net((x // 2).float())


class Wrapped(Around):
    def forward(self, x):
        return self.net((x + x).float())


class Shifted(Around):
    def forward(self, x):
        return self.net((x >> 1).float())


@pytest.mark.parametrize("make", [Halved, Wrapped, Shifted])
def test_arithmetic_of_integers_is_refused(tmp_path, make):
    """It has no gradient, or is another one on floating numbers."""
    torch.jit.script(seeded(make)).save(tmp_path / "model.pt")
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], "dtype": "uint8"}})
    with pytest.raises(Refused):
        lift(tmp_path / "model.pt", card.sample())


class Styled(nn.Module):
    """Turns blue to nothing, channels last and blue first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("colours", torch.tensor([0.0, 0.5, 1.0]))

    def forward(self, x):
        return x * self.colours


def test_a_stylizers_image_has_the_form_that_it_takes(tmp_path):
    card = Card.model_validate(
        {"kind": "stylizer", "input": {"size": [SIDE, 2 * SIDE], "layout": "nhwc", "order": "bgr"}}
    )
    torch.jit.script(Styled()).save(tmp_path / "model.pt")
    graph, rows = lift(tmp_path / "model.pt", card.sample()), torch.rand(2, 3, SIDE, 2 * SIDE)
    (got,) = answer(graph, [Part(Ask(rows, want=OUT), 0, 2)])
    assert torch.allclose(got.out, rows * torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "uint8", "mean": MEAN}, "normalises its pixels itself; leave mean out"),
        ({"order": "bgr", "channels": 1}, "order bgr is for the colours of pictures"),
        ({"layout": "hwc"}, "nchw"),
    ],
)
def test_a_card_that_contradicts_itself_is_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Card.model_validate({"input": options})


@pytest.mark.parametrize(
    ("make", "right", "wrong", "sentence"),
    [
        (ChannelsLast, {"layout": "nhwc"}, {}, r'\[any, 16, 16, 3\]; set input.layout in the card to "nhwc"'),
        (Small, {}, {"layout": "nhwc"}, 'set input.layout in the card to "nchw"'),
        (Small, {}, {"batch": False}, "set input.batch in the card to true"),
        (Single, {"batch": False}, {"batch": True}, "set input.batch in the card to false"),
    ],
)
def test_a_program_that_declares_another_form_says_so(tmp_path, make, right, wrong, sentence):
    cards = [Card.model_validate({"input": {"size": [SIDE, SIDE], **options}}).sample() for options in (right, wrong)]
    path = written(seeded(make), "pt2", tmp_path, cards[0])
    with pytest.raises(Refused, match=sentence):
        lift(path, cards[1])


@pytest.mark.parametrize("form", ["traced", "pt2"])
@pytest.mark.parametrize("case", CASES)
def test_check_and_add_find_the_form_in_the_file(tmp_path, case, form):
    make, options, _ = CASES[case]
    card = Card.model_validate({"input": {"size": [SIDE, SIDE + 8], **options}})
    path = written(seeded(make), form, tmp_path, card.sample())
    told = {name: options[name] for name in ("mean", "std", "order") if name in options}
    found = inspect(path, Given(**told))
    source = "the trace's sample" if form == "traced" else "the program's input"
    assert found.reasons["size"] == f"16 x 24: from {source}" and found.input == (3, SIDE, SIDE + 8)
    assert found.reasons.get("layout", "nchw").startswith(options.get("layout", "nchw"))
    added = bring.add(str(path), tmp_path / "models", "net", "", Given(**told))
    assert added.model.card.input == Card.model_validate({"input": {"size": [SIDE, SIDE + 8], **options}}).input
    assert added.model.card.check is not None, added.notes


def test_what_is_given_and_what_the_card_says_go_before_the_file(tmp_path):
    directory = tmp_path / "net" / "1"
    directory.mkdir(parents=True)
    path = written(seeded(Small), "traced", directory, Card.model_validate({"input": {"size": [24, 32]}}).sample())
    assert inspect(path, Given(size=(40, 16))).input == (3, 40, 16)
    (directory / "card.toml").write_text("[input]\nsize = [16, 16]\n[output]\nactivation = 'sigmoid'\n")
    found = inspect(path, Given())
    assert found.input == (3, 16, 16) and "size" not in found.reasons
    assert found.reasons["activation"] == "sigmoid: as given"
    assert inspect(path, Given(activation="none")).activation == "none"


def test_the_sample_of_a_grey_trace_and_that_of_a_generator_are_read(tmp_path):
    torch.jit.trace(Small(1).eval(), torch.rand(1, 1, 20, 28), check_trace=False).save(tmp_path / "grey.pt")
    found = inspect(tmp_path / "grey.pt", Given())
    assert found.input == (1, 20, 28) and found.reasons["channels"] == "1: from the trace's sample"
    net = nn.Sequential(nn.Linear(10, 192), nn.Unflatten(1, (3, 8, 8)))
    torch.jit.trace(net.eval(), torch.rand(2, 10)).save(tmp_path / "codes.pt")
    assert inspect(tmp_path / "codes.pt", Given(kind="generator")).input == (10,)


@pytest.mark.parametrize("described", [{"imgsz": [24, 32]}, {"imgsz": 24}, {"shape": [1, 3, 24, 32]}, {"stride": 8}])
def test_a_description_in_the_file_tells_size_and_names(tmp_path, described):
    told = {"author": "Ultralytics", "names": {"10": "d", "0": "a", "1": "b", "2": "c"}, **described}
    net = torch.jit.trace(seeded(Small), torch.rand(1, 3, 20, 20), check_trace=False)
    net.save(tmp_path / "model.pt", _extra_files={"config.txt": json.dumps(told).encode()})
    size = {"imgsz": (24, 32), "shape": (24, 32)}.get(next(iter(described)), (20, 20))
    size = (24, 24) if described == {"imgsz": 24} else size
    model = bring.add(str(tmp_path / "model.pt"), tmp_path / "models", "net", "", Given()).model
    assert model.card.input.size == size and model.labels == ("a", "b", "c", "d")
    assert (model.card.input.mean, model.card.input.std) == ((0, 0, 0), (1, 1, 1))


def test_a_description_and_a_sample_that_cannot_be_read_tell_nothing(tmp_path):
    files = {"config.txt": b"no JSON", "traced_inputs.pkl": b"no pickle"}
    torch.jit.script(seeded(Small)).save(tmp_path / "model.pt", _extra_files=files)
    assert "size" not in inspect(tmp_path / "model.pt", Given(size=(SIDE, SIDE))).reasons


def test_requests_of_a_model_of_integers_are_pixels_as_ever(tmp_path):
    """An image of 8 bits has the file's scores; rows of several requests share a step."""
    net = seeded(IntegersLast)
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], "resize": SIDE, "dtype": "uint8", "layout": "nhwc"}})
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    with Local(net, card) as local:
        result = local.explain(image, IntegratedGradients(steps=8), predictions=4)
        saliency = local.explain(image, Saliency())
    scores = net(torch.from_numpy(image)[None])[0]
    told = {prediction.class_index: prediction.score for prediction in result.predictions}
    assert torch.allclose(torch.tensor([told[index] for index in range(4)]), scores, atol=1e-5)
    assert saliency.values.shape == (SIDE, SIDE) and saliency.values.max() > 0


def test_get_model_tells_the_form():
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], "order": "bgr", "mean": MEAN, "std": STD}})
    with Local(seeded(Small), card) as local:
        told = described(local.model).card
    assert (told.order, told.layout, told.integers, told.HasField("batch")) == (2, 1, False, False)
    assert tuple(told.mean) == MEAN, "in the file's order"
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], "layout": "nhwc", "dtype": "uint8", "batch": False}})
    with Local(seeded(SingleLast), card) as local:
        told = described(local.model).card
        assert "the file takes one image without a batch" in local.model.graph.notes
    assert (told.order, told.layout, told.integers, told.batch) == (1, 2, True, False)


def tensor(seed=0, shape=(5, 32, 32)):
    return np.random.default_rng(seed).random(shape)


class Batched(Unbatched):
    """The same network on a batch."""

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("method", [GradCam(), GradCam(layer="relu_0"), AblationCam(), Activations(layer="conv")])
def test_layers_without_a_batch_are_those_of_the_same_network_with_one(method):
    found = []
    for make, batch in ((Unbatched, False), (Batched, True)):
        card = Card.model_validate({"input": {"size": [SIDE, SIDE], "batch": batch}})
        with Local(seeded(make), card, dtype=torch.float64) as local:
            found.append(numbers(local.explain(tensor(shape=(3, 20, 24)), method, target=1)))
    assert found[0].keys() == found[1].keys()
    for key, array in found[0].items():
        assert array.any() and np.allclose(array, found[1][key], atol=1e-6), key


class Five(nn.Module):
    """A classifier of five channels that are no colours, with layers for every method."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu, self.conv = nn.Conv2d(5, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.relu(self.conv(self.relu(self.stem(x)))).mean((2, 3)))


TENSOR = {"size": [32, 32], "resize": 32, "channels": 5, "bands": [4, 2, 1], "mean": [0.1, 0.2, 0.3, 0.4, 0.5]}


@pytest.fixture(scope="module")
def five():
    with Local(seeded(Five), Card.model_validate({"input": TENSOR}), dtype=torch.float64) as local:
        yield local


def applying(local):
    return {method.method for method in described(local.model).methods if method.applies}


@pytest.mark.parametrize("name", METHODS)
def test_methods_on_tensors_keep_the_laws_or_say_why_they_do_not_apply(five, name):
    if name not in applying(five):
        reasons = {method.method: method.reason for method in described(five.model).methods}
        assert name in ("segmentation", "style_transfer") and "no colours" in reasons[name]
        return
    alone = numbers(ask(five, name, tensor(), seed=3))
    with ThreadPoolExecutor(6) as threads:
        crowd = [threads.submit(ask, five, name, tensor(seed), seed=3) for seed in (1, 0, 2)]
        beside = numbers(crowd[1].result())
    assert alone.keys() == beside.keys() and (alone or name == "predictions")
    for key, array in alone.items():
        assert np.isfinite(array).all() and np.allclose(array, beside[key], rtol=1e-8, atol=1e-8), key


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_tensors_are_those_of_every_channel(tmp_path, form):
    card, net = Card.model_validate({"input": TENSOR}), seeded(Five)
    graph = lift(written(net, form, tmp_path, card.sample()), card.sample()).to("cpu", torch.float64)
    rows = torch.from_numpy(tensor(1, (3, 5, 32, 32))).requires_grad_()
    mean = torch.tensor(TENSOR["mean"], dtype=torch.float64).view(1, 5, 1, 1)
    scores = net.double()(rows - mean)
    got, grad = asked(graph, rows.detach())
    assert torch.allclose(got, scores) and torch.allclose(grad, torch.autograd.grad(scores[:, 1].sum(), rows)[0])


def test_tensors_are_drawn_by_their_bands(five):
    result = five.explain(tensor(), Saliency(channels="REDUCTION_NONE"), pictures=["overlay"])
    assert result.tensors["gradient"].shape == (5, 32, 32) and list(result.message.bands) == [4, 2, 1]
    eight = (tensor() * 255).round().astype(np.uint8)
    assert np.abs(np.asarray(result.original).astype(int) - eight[[3, 1, 0]].transpose(1, 2, 0)).max() <= 1
    assert result.message.pictures[0].png and result.overlay().size == (32, 32)
    attacked = five.synthesize(Pgd(steps=2, stop_early=False), image=tensor(), previews=1).result()
    assert attacked.tensors["image"].shape == (5, 32, 32), "which no picture holds"
    shown = np.asarray(attacked.image).astype(int)
    assert np.abs(shown - 255 * attacked.tensors["image"][[3, 1, 0]].transpose(1, 2, 0)).max() <= 1


def test_a_tensor_is_cropped_and_resized_as_a_picture_is(five):
    seen = five.explain(tensor(shape=(5, 48, 80)), Saliency(channels="REDUCTION_NONE"))
    assert seen.tensors["gradient"].shape == (5, 32, 32) and seen.original.size == (80, 48)
    assert seen.message.placement.scale_x == pytest.approx(1.5, abs=0.02)
    blurred = five.explain(tensor(), IntegratedGradients(steps=2, baseline_image=to_message(tensor(1))))
    assert blurred.values.any()


@pytest.mark.parametrize(
    ("image", "method", "sentence"),
    [
        (PICTURES[0], Saliency(), r"send `tensor` \[5, height, width\]"),
        (tensor(shape=(4, 32, 32)), Saliency(), r"\[4, 32, 32\] is not \[5, height, width\]"),
        (2 * tensor(), Saliency(), r"outside \[0, 1\]"),
        (tensor(), Occlusion(color={"red": 1}), "no colours; use fill"),
    ],
)
def test_what_a_model_of_tensors_does_not_take_is_a_sentence(five, image, method, sentence):
    with pytest.raises(InvalidArgumentError, match=sentence):
        five.explain(image, method)


def test_a_style_needs_a_picture(five):
    with pytest.raises(NotApplicableError, match="no colours"):
        five.synthesize(StyleTransfer(styles=[{"image": to_message(PICTURES[0])}]), image=tensor()).result()


@pytest.mark.parametrize(
    ("options", "drawn", "count"),
    [
        ({"channels": 2}, (1,), 2),
        ({"channels": 4}, (1, 2, 3), 4),
        ({"channels": 1, "bands": [1]}, (1,), 1),
        ({"channels": 3, "bands": [3, 2, 1]}, (3, 2, 1), 3),
        ({"channels": 64, "bands": [64]}, (64,), 64),
        ({"channels": 1}, (), 3),
    ],
)
def test_channels_are_no_colours_if_they_are_others_or_have_bands(options, drawn, count):
    card = Card.model_validate({"input": {"size": [8, 8], **options}})
    assert (card.input.drawn, card.sample().rows(1)[0].shape[1]) == (drawn, count)
    assert not drawn or card.normalisation == ((0.0,) * count, (1.0,) * count)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 65}, "64"),
        ({"channels": 5, "bands": [0]}, "greater than 0"),
        ({"channels": 5, "bands": [6]}, "counted from 1 to 5"),
        ({"channels": 5, "bands": [1, 2]}, "one or three"),
        ({"channels": 5, "order": "bgr"}, "order bgr"),
        ({"channels": 5, "mean": [0.5, 0.5, 0.5]}, "one for each of 5"),
    ],
)
def test_channels_and_bands_that_do_not_fit_are_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Card.model_validate({"input": options})


def test_a_check_by_a_picture_is_none_of_a_model_of_tensors(tmp_path):
    torch.jit.trace(seeded(Five), torch.rand(1, 5, 16, 24), check_trace=False).save(tmp_path / "model.pt")
    added = bring.add(str(tmp_path / "model.pt"), tmp_path / "models", "net", "", Given(bands=(5, 4, 3)))
    assert added.model.card.input.size == (16, 24) and added.model.card.input.channels == 5
    assert "has not the channels" in added.notes[0] and added.reasons["channels"] == "5: from the trace's sample"
    told = described(added.model).card
    assert (told.channels, list(told.bands)) == (5, [5, 4, 3])
    check = {"picture": "check.png", "classes": [0], "scores": [1.0]}
    with pytest.raises(ValueError, match="tensors"):
        Card.model_validate({"input": TENSOR, "check": check})
