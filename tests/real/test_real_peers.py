"""On real ImageNet weights and a photograph at full size our explanations are those of captum and pytorch-grad-cam of
torchvision's network with the file's weights, in float64, as tests/peers has it for random ones."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image as Pil

from lightwell_server.codec import pictures
from lightwell_server.models.store import load
from tests.peers.cams import ONE_PASS, TRYING, agree_as_pictures, agree_cut_off, cam, tried
from tests.peers.captums import attributed, grad_cam, guided_grad_cam, smoothed, well_integrated
from tests.peers.twins import Case, Twin, agree
from tests.real.conftest import MODELS

LAYERS = {"mobilenet_v2": ("features.3", "features.18"), "squeezenet1_0": ("features.4", "classifier.2")}
"""An earlier layer and the default one."""
PLACES = [(name, layer) for name, layers in LAYERS.items() for layer in layers]


@cache
def compared(name):
    """A file of the repository in float64 and torchvision's network, before a photograph."""
    repository = Path(os.environ["LIGHTWELL_REAL"])
    model = load(repository, name, "1", dtype=torch.float64)
    net = getattr(torchvision.models, name)(weights=None)
    net.load_state_dict(torch.jit.load(repository / name / "1" / "model.pt").state_dict())
    photograph = Pil.open(repository.parent / "images" / "imagenet_18_317.jpg").convert("RGB")
    image, _ = pictures.fitted(photograph, model.card.fit, "image")
    return Case(name, "file", model, Twin(net, model.card, image).double())


@pytest.fixture(params=MODELS)
def case(request):
    """Each model in turn."""
    return compared(request.param)


GRADIENTS = {
    "saliency": ("Saliency", {"magnitude": False}, {"abs": False}),
    "input_x_gradient": ("InputXGradient", {"scale": "pixels"}, {}),
    "guided_backprop": ("GuidedBackprop", {}, {}),
    "deconvnet": ("Deconvolution", {}, {}),
}


def test_the_photograph_is_understood(case):
    assert case.top == 317


@pytest.mark.parametrize("method", GRADIENTS)
def test_gradients(case, method):
    peer, given, options = GRADIENTS[method]
    (ours,) = case.ask(method, channels="none", **given).tensors.values()
    agree(ours, attributed(peer, case.twin, **options))


def test_smooth_grad(case):
    ours, theirs = smoothed(case, "smoothgrad", 2)
    agree(ours, theirs)


def test_integrated_gradients(case):
    ours = case.ask("integrated_gradients", steps=4, channels="none").tensors["attribution"]
    agree(ours, well_integrated(case.twin, torch.zeros_like(case.image), "gauss_legendre", 4))


@pytest.mark.parametrize(("name", "layer"), PLACES)
def test_captums_cams(name, layer):
    case = compared(name)
    agree(case.ask("grad_cam", layer=layer, relu=False).map.values, grad_cam(case.twin, layer))
    ours = case.ask("guided_grad_cam", layer=layer, channels="none").tensors["attribution"]
    agree(ours, guided_grad_cam(case.twin, layer, "bilinear"))


def test_cam(case):
    ours = case.ask("cam").map.values
    agree(ours, grad_cam(case.twin, LAYERS[case.name][-1]) * ours.numel())


@pytest.mark.parametrize(("name", "layer"), PLACES)
@pytest.mark.parametrize("method", ONE_PASS)
def test_class_activation_maps(name, layer, method):
    case = compared(name)
    raw, picture = cam(method, case.twin, layer)
    ours = case.ask(method, layer=layer).map
    agree_cut_off(ours.values, raw)
    agree_as_pictures(ours, picture)


@pytest.mark.parametrize(("name", "layer"), PLACES)
@pytest.mark.parametrize("method", TRYING)
def test_maps_by_trying_channels(name, layer, method):
    """What Score-CAM hides takes the card's mean colour, which methods have in single precision."""
    case = compared(name)
    raw, picture = tried(method, case.twin, layer, 4)
    ours = case.ask(method, layer=layer, max_channels=4).map
    agree_cut_off(ours.values, raw, 1e-6 if method == "score_cam" else 1e-8)
    agree_as_pictures(ours, picture)
