"""Guided backprop, the deconvnet and Guided Grad-CAM are captum's of the eager network, in whatever form a ReLU stands
there: a module, one that is used twice or works in place, a function, a ReLU6."""

from copy import deepcopy

import captum.attr as captum
import pytest

from tests.peers.captums import attributed, guided_grad_cam
from tests.peers.files import FILES, MIXED, PLACES, SIDE
from tests.peers.nets import lively
from tests.peers.twins import agree, distance

PEERS = {"guided_backprop": "GuidedBackprop", "deconvnet": "Deconvolution"}
WITHOUT = ("efficientnet_b0", "convnext_tiny", "vit_b_16")
"""Networks of SiLU and GELU; test_peers_refusals.py shows that they are refused."""
WITH = [file for file in FILES if not file.startswith(WITHOUT)]
AT = [(file, layer) for file, layer in PLACES if file in WITH]


@pytest.mark.parametrize("case", WITH, indirect=True)
@pytest.mark.parametrize("method", PEERS)
def test_rules(case, method):
    theirs = attributed(PEERS[method], case.twin)
    agree(case.ask(method, channels="none").tensors["gradient"], theirs)
    assert distance(theirs, attributed("Saliency", case.twin, abs=False)) > 0.1, "the plain gradient is another one"


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("method", PEERS)
def test_magnitudes(case, method):
    agree(case.ask(method, magnitude=True).map.values, attributed(PEERS[method], case.twin).abs().amax(0))


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mobilenet_v2"])
@pytest.mark.parametrize("method", PEERS)
def test_captum_sees_modules_only(make, name, method):
    """On the network as torchvision has it captum leaves out functional ReLUs and every ReLU6, in silence; hence the
    twin with modules."""
    case = make(name, "scripted")
    net = deepcopy(lively(name)).double().requires_grad_(False)
    as_it_is = getattr(captum, PEERS[method])(net).attribute(
        ((case.image - case.twin.zero) / case.twin.unit).requires_grad_(), target=case.top
    )[0]
    agree(net((case.image - case.twin.zero) / case.twin.unit), case.twin(case.image))
    ours = case.ask(method, channels="none").tensors["gradient"] * case.twin.unit[0]
    assert distance(ours, as_it_is) > 0.1
    if name != "densenet121":  # its last ReLU alone is a function
        plain = attributed("Saliency", case.twin, abs=False) * case.twin.unit[0]
        agree(as_it_is, plain)


@pytest.mark.parametrize(("case", "layer"), AT, indirect=["case"])
def test_guided_grad_cam(case, layer):
    ours = case.ask("guided_grad_cam", layer=case.named(layer), channels="none").tensors["attribution"]
    agree(ours, guided_grad_cam(case.twin, layer, "bilinear"))


@pytest.mark.parametrize("case", ["resnet18-scripted"], indirect=True)
def test_captum_enlarges_by_the_nearest_cell(case):
    """Its Guided Grad-CAM does unless it is told; its parts are ours, and put together by blocks they are its."""
    theirs = guided_grad_cam(case.twin, case.default, "nearest")
    fine = case.ask("guided_backprop", channels="none").tensors["gradient"]
    coarse = case.ask("grad_cam").map.values
    agree(fine * coarse.repeat_interleave(SIDE // 2, 0).repeat_interleave(SIDE // 2, 1), theirs)
    assert distance(case.ask("guided_grad_cam", channels="none").tensors["attribution"], theirs) > 0.01
