"""In float32 a gradient of ours, through a folded graph, is no further from the truth than captum's of the eager
network; values and class activation maps at late layers agree to 1e-4."""

import pytest
import torch

from lightwell_server.contract import ClassTarget
from tests.peers.cams import ONE_PASS, cam, tried
from tests.peers.captums import attributed, well_integrated
from tests.peers.files import MIXED
from tests.peers.twins import agree, picture

PICTURES = 5


GRADIENTS = {
    "saliency": ("Saliency", {"magnitude": False}, {"abs": False}),
    "input_x_gradient": ("InputXGradient", {"scale": "pixels"}, {}),
    "guided_backprop": ("GuidedBackprop", {}, {}),
}
"""captum's name, what ours is given and what captum's."""


def relative(values, truth):
    return float((values.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("method", GRADIENTS)
def test_distance_to_float64(make, method):
    peer, given, options = GRADIENTS[method]
    single, double = make("resnet18", "scripted", torch.float32), make("resnet18", "scripted")
    ours, theirs = [], []
    for seed in range(PICTURES):
        exact, rounded = double.seeing(picture(seed)), single.seeing(picture(seed).float())
        truth = attributed(peer, exact.twin, **options)
        theirs.append(relative(attributed(peer, rounded.twin, exact.top, **options), truth))
        (values,) = rounded.ask(method, ClassTarget(exact.top), channels="none", **given).tensors.values()
        ours.append(relative(values, truth))
    # Medians: where rounding flips a ReLU in one of the two, that picture alone is off by up to a few percent.
    assert (torch.tensor(ours) / torch.tensor(theirs)).median() <= 1.2
    assert torch.tensor(ours).median() <= 2e-2


def test_integrated_gradients(make):
    """Their mean over points is near the truth. It is not compared with captum's: several rows in one step are rounded
    otherwise than one, in both, which is all that is left to compare."""
    single, double = make("resnet18", "scripted", torch.float32), make("resnet18", "scripted")
    distances = []
    for seed in range(PICTURES):
        exact = double.seeing(picture(seed))
        truth = well_integrated(exact.twin, torch.zeros_like(exact.image), "gauss_legendre", 4)
        rounded = single.seeing(picture(seed).float())
        ours = rounded.ask("integrated_gradients", ClassTarget(exact.top), steps=4, channels="none")
        distances.append(relative(ours.tensors["attribution"], truth))
    assert torch.tensor(distances).median() <= 1e-5


@pytest.mark.parametrize("file", MIXED)
def test_late_layers(make, file):
    single, double = make(*file.split("-"), torch.float32), make(*file.split("-"))
    (exact,) = double.twin.features(double.image, [double.default])
    agree(single.ask("activations").tensors["activations"], exact[0], 1e-4)
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
