"""In float32 a gradient of ours, through a folded graph, is no further from the truth than captum's of the eager
network; values and class activation maps at late layers agree to 1e-4."""

import pytest
import torch

from tests.peers.cams import ONE_PASS, cam, tried
from tests.peers.captums import attributed, integrated, well_integrated
from tests.peers.twins import MIXED, agree, picture

PICTURES = 5


def black(twin):
    return torch.zeros_like(twin.image), "gauss_legendre", 4


# Ours, captum's and, where captum's is not exact in float64 either, the truth.
GRADIENTS = {
    "saliency": ({"magnitude": False}, lambda twin: attributed("Saliency", twin, abs=False), None),
    "input_x_gradient": ({"scale": "pixels"}, lambda twin: attributed("InputXGradient", twin), None),
    "guided_backprop": ({}, lambda twin: attributed("GuidedBackprop", twin), None),
    "integrated_gradients": (
        {"steps": 4},
        lambda twin: integrated(twin, *black(twin)),
        lambda twin: well_integrated(twin, *black(twin)),
    ),
}


def relative(values, truth):
    return float((values.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("method", GRADIENTS)
def test_distance_to_float64(make, method):
    given, peer, truth = GRADIENTS[method]
    single, double = make("resnet18", "scripted", torch.float32), make("resnet18", "scripted")
    ours, theirs = [], []
    for seed in range(PICTURES):
        exact = double.seeing(picture(seed))
        rounded = single.seeing(picture(seed).float())
        right = (truth or peer)(exact.twin)
        theirs.append(relative(peer(rounded.twin), right))
        (values,) = rounded.ask(method, channels="none", **given).tensors.values()
        ours.append(relative(values, right))
    # Medians: where rounding flips a ReLU in one of the two, that picture alone is off by up to a few percent.
    assert (torch.tensor(ours) / torch.tensor(theirs)).median() <= 1.2
    assert torch.tensor(ours).median() <= 2e-2


@pytest.mark.parametrize("file", MIXED)
def test_late_layers(make, file):
    single, double = make(*file.split("-"), torch.float32), make(*file.split("-"))
    agree(single.ask("embedding").tensors["embedding"], double.ask("embedding").tensors["embedding"], 1e-4)
    for method in ONE_PASS:
        raw, _ = cam(method, double.twin, double.default)
        agree(single.ask(method).map.values + raw.clamp(max=0), raw, 1e-4)


def test_a_channel_of_one_value_is_no_mask_of_its_rounding(make):
    """The max-pool of GoogLeNet's last block gives channels that are the same everywhere: Score-CAM's mask of such a
    one is empty, in whatever precision."""
    single, double = (make("googlenet", "scripted", dtype) for dtype in (torch.float32, torch.float64))
    values = single.ask("activations", max_channels=6).tensors["activations"].flatten(1)
    assert (values.amax(1) == values.amin(1)).any()
    raw, _ = tried("score_cam", double.twin, double.default, 6)
    agree(single.ask("score_cam", max_channels=6).map.values + raw.clamp(max=0), raw, 1e-4)
