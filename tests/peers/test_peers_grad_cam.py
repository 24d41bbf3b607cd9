"""Grad-CAM equals captum's and pytorch-grad-cam's at fine and coarse layers, and enlarges as the latter does."""

import numpy as np
import pytest
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from lightwell.heatmap import bilinear
from tests.peers.twins import LAYERS, SCRIPTED, SIDE, agree

DEPTHS = range(3)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("depth", DEPTHS)
def test_captum(case, depth, relu):
    layer = LAYERS[case.name][depth]
    peer = LayerGradCam(case.twin, case.twin.layer(layer))
    theirs = peer.attribute(case.image.clone().requires_grad_(), target=case.top, relu_attributions=relu)
    ours = case.ask("grad_cam", layer=layer, relu=relu)
    agree(ours.map.values, theirs[0, 0].detach())


def test_default_layer_is_the_last_with_height_and_width(case):
    last = {"resnet18": "layer4", "squeezenet1_1": "classifier.2", "mobilenet_v2": "features.18"}[case.name]
    peer = LayerGradCam(case.twin, case.twin.layer(last))
    theirs = peer.attribute(case.image.clone().requires_grad_(), target=case.top)
    agree(case.ask("grad_cam", relu=False).map.values, theirs[0, 0].detach())


def pytorch_grad_cam(case, layer):
    """Its weighted sum of channels, before anything is cut off or rescaled; and its picture, rescaled and enlarged."""
    # Its backward stops at the layer only if something before it requires gradients: the image does.
    with GradCAM(case.twin, [case.twin.layer(layer)]) as peer:
        x, targets = case.image.clone().requires_grad_(), [ClassifierOutputTarget(case.top)]
        image = peer(x, targets)[0]
        held = peer.activations_and_grads
        raw = peer.get_cam_image(
            x, peer.target_layers[0], targets, held.activations[0].numpy(), held.gradients[0].numpy()
        )
    return raw[0], image


@pytest.mark.parametrize("depth", DEPTHS)
def test_pytorch_grad_cam(case, depth):
    layer = LAYERS[case.name][depth]
    raw, _ = pytorch_grad_cam(case, layer)
    agree(case.ask("grad_cam", layer=layer, relu=False).map.values, raw)


def rescaled(values):
    """pytorch-grad-cam's way: the least value becomes 0 even where every value is positive, the largest very nearly
    1."""
    values = values - values.min()
    return values / (1e-7 + values.max())


@pytest.mark.parametrize("case", SCRIPTED, indirect=True)
@pytest.mark.parametrize("depth", DEPTHS)
def test_enlargement_of_pytorch_grad_cam(case, depth):
    # It rescales the map before it enlarges it and again afterwards, both in float32 through OpenCV; we send the map
    # as it is, and enlarge it by the same bilinear rule. Its conventions put around ours give its picture.
    layer = LAYERS[case.name][depth]
    _, theirs = pytorch_grad_cam(case, layer)
    ours = case.ask("grad_cam", layer=layer).map
    assert ours.enlargement == "bilinear"
    agree(rescaled(bilinear(rescaled(ours.values.numpy()).astype(np.float32), SIDE, SIDE)), theirs, 1e-5)
