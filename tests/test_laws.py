"""Laws that hold for every method that is registered: alone, in a crowd, reproducible, asked again. A new method gets
them for nothing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from torch import nn

from lightwell import InvalidArgumentError, images
from lightwell.images import to_message
from lightwell.results import Explanation
from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell_server.catalog import catalog
from lightwell_server.local import Local
from lightwell_server.models.card import Card
from lightwell_server.models.store import load_version

BUNDLED = Path(__file__).parents[1] / "server" / "lightwell_server" / "bundled"
SAMPLES = BUNDLED.parents[2] / "client" / "lightwell" / "samples"
PICTURES = sorted(path for path in SAMPLES.glob("*.png") if path.stem not in ("scene", "painting"))[:3]

# Parameters that a method cannot do without, or that make it quick; all others are tried with their defaults.
GIVEN = {
    "style_transfer": {"styles": [{"image": to_message(SAMPLES / "painting.png")}], "size": 64, "steps": 4},
    "pgd": {"steps": 4, "epsilon": 2 / 255},
    "ablation_cam": {"max_channels": 8},
    "integrated_gradients": {"steps": 8},
    "score_cam": {"max_channels": 8},
    "smooth_grad": {"samples": 6},
}
METHODS = sorted(catalog())
COMPANY = 7
"""Methods that a request meets in a crowd: its own, and those behind it in the alphabet, so that over all tests each
meets many others."""


@pytest.fixture(scope="module")
def local():
    with Local(load_version(BUNDLED / "shapes" / "1", BUNDLED, dtype=torch.float64)) as local:
        yield local


def message(name):
    field = request_type(name).DESCRIPTOR.fields_by_name[name]
    return field.message_type._concrete_class(**GIVEN.get(name, {}))


def request_type(name):
    return explain_pb2.ExplainRequest if catalog()[name].kind == "explain" else synthesize_pb2.SynthesizeRequest


def ask(local, name, picture, **options):
    """One request of a method with its default parameters."""
    if catalog()[name].kind == "explain":
        return local.explain(picture, message(name), **options)
    return local.synthesize(message(name), image=picture, image_tensor=True, **options).result()


def numbers(result):
    """Everything that a result holds, as arrays."""
    arrays = dict(result.tensors)
    if isinstance(result, Explanation) and result.message.HasField("map"):
        arrays["map"] = result.values
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def crowded(local, name, picture, **options):
    """The same request among requests of several methods on other pictures."""
    first = METHODS.index(name)
    company = (METHODS * 2)[first : first + COMPANY]
    with ThreadPoolExecutor(24) as threads:
        others = [threads.submit(ask, local, m, p, seed=9) for m in company for p in PICTURES[1:]]
        own = threads.submit(ask, local, name, picture, **options)
        others += [threads.submit(ask, local, m, p, seed=9) for m in company for p in PICTURES[1:]]
        for other in others:
            other.result()
        return own.result()


@pytest.mark.parametrize("name", METHODS)
def test_a_neighbour_does_not_change_the_result(local, name):
    alone, beside = ask(local, name, PICTURES[0], seed=3), crowded(local, name, PICTURES[0], seed=3)
    first, second = numbers(alone), numbers(beside)
    assert first.keys() == second.keys()
    if catalog()[name].kind == "explain":
        for key in first:
            assert np.abs(first[key] - second[key]).max() <= 1e-8 * np.abs(first[key]).max(), key
    else:  # an iterated method may carry rounding further: the outcome is what must agree
        assert alone.succeeded == beside.succeeded
        for key, value in alone.measures.items():
            assert beside.measures[key] == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_at_another_size_a_neighbour_changes_nothing_or_all_are_refused(local, name):
    pictures = [np.asarray(Pil.open(path).convert("RGB"))[20:148, 4:164] for path in PICTURES]
    try:
        alone = ask(local, name, pictures[0], seed=3, fit="exact")
    except InvalidArgumentError as error:
        assert "128 x 160" in str(error)
        return
    with ThreadPoolExecutor(6) as threads:
        everybody = [threads.submit(ask, local, name, picture, seed=3, fit="exact") for picture in pictures * 2]
        own = [running.result() for running in everybody][len(pictures)]
    for key, array in numbers(alone).items():
        near = 1e-8 if catalog()[name].kind == "explain" else 0.1
        assert np.abs(array - numbers(own)[key]).max() <= near * np.abs(array).max(), key


@pytest.fixture
def deterministic():
    """A program that has chosen torch's deterministic algorithms, as a server's process does."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("deterministic")
def test_a_reproducible_request_keeps_its_bits_in_a_crowd(local, name):
    alone = ask(local, name, PICTURES[0], seed=3, reproducible=True)
    beside = crowded(local, name, PICTURES[0], seed=3, reproducible=True)
    for key, array in numbers(alone).items():
        assert array.tobytes() == numbers(beside)[key].tobytes(), key
    assert not beside.provenance.exceptions


@pytest.mark.parametrize("name", METHODS)
def test_a_result_can_be_asked_again_from_its_own_reply(local, name):
    first = ask(local, name, PICTURES[0], seed=5)
    resolved = type(first.message.resolved)()
    resolved.CopyFrom(first.message.resolved)
    parameters = getattr(resolved, name)
    if name == "style_transfer":
        parameters.styles[0].image.CopyFrom(to_message(SAMPLES / "painting.png"))
    options = {"model": resolved.model, "version": resolved.version, "seed": resolved.seed, "target": resolved.target}
    if catalog()[name].kind == "explain":
        again = local.explain(PICTURES[0], parameters, **options)
    else:
        again = local.synthesize(parameters, image=PICTURES[0], image_tensor=True, **options).result()
    for key, array in numbers(first).items():
        assert np.abs(array - numbers(again)[key]).max() <= 1e-6 * np.abs(array).max(), key
    assert again.message.resolved == first.message.resolved


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_filled_in_and_every_image_digested(local, name):
    result = ask(local, name, PICTURES[0])
    filled = getattr(result.message.resolved, name)
    checked = catalog()[name].checked.model_fields
    for field in filled.DESCRIPTOR.fields:
        unset = checked[field.name].default is None or field.name == "color"
        assert unset or field.is_repeated or filled.HasField(field.name), field.name
    digests = {image.field: image.sha256 for image in result.provenance.images}
    assert len(digests["image"]) == 64
    assert len(digests) == 1 + len(GIVEN.get(name, {}).get("styles", ()))
    assert result.provenance.device_seconds > 0 and result.provenance.steps > 0


@pytest.mark.parametrize("name", METHODS)
def test_results_are_finite_and_in_range(local, name):
    result = ask(local, name, PICTURES[0])
    for key, array in numbers(result).items():
        assert np.isfinite(array).all() and array.size, key
    if catalog()[name].kind == "synthesize":
        assert result.tensors["image"].min() >= 0 and result.tensors["image"].max() <= 1
        assert np.asarray(result.image).shape == (*result.tensors["image"].shape[1:], 3)


@pytest.mark.parametrize("name", METHODS)
def test_the_kind_of_image_does_not_matter(local, name):
    """A path, its bytes, a PIL image and an array are the same picture."""
    path = PICTURES[0]
    forms = [path, path.read_bytes(), Pil.open(path).convert("RGB"), np.asarray(Pil.open(path).convert("RGB"))]
    results = [numbers(ask(local, name, form, fit="card", seed=1)) for form in forms[:3]]
    for other in results[1:]:
        for key, array in results[0].items():
            assert np.allclose(array, other[key], rtol=1e-6, atol=1e-9), key
    message_ = images.to_message(forms[3])
    assert list(message_.tensor.shape) == [3, 192, 192]


@pytest.fixture(scope="module")
def grey():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with Local(net.eval(), Card.model_validate({"input": {"size": [64, 64], "channels": 1}})) as local:
        yield local


GREY = [
    *((name, {}) for name in METHODS if catalog()[name].kind == "synthesize"),
    ("pgd", {"norm": "NORM_L2", "epsilon": 2.0}),
    ("style_transfer", {"start": "START_NOISE", "optimizer": "OPTIMIZER_ADAM"}),
]


@pytest.mark.parametrize(("name", "given"), GREY)
def test_a_model_of_luminance_makes_grey_of_grey(grey, name, given):
    method = type(message(name))(**{**GIVEN.get(name, {}), **given})
    made = grey.synthesize(method, image=Pil.open(PICTURES[0]).convert("L"), image_tensor=True).result()
    pixels = np.asarray(made.image).astype(int)
    assert (np.ptp(pixels, axis=2) == 0).all() and np.ptp(pixels) > 0
    assert (np.ptp(made.tensors["image"], axis=0) == 0).all()
