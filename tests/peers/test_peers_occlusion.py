"""Occlusion masks the windows that captum masks, the last of a row too where the stride does not fit; its grid of
values is the eager network's, and its map, enlarged, captum's."""

import math
import time

import pytest
import torch
from captum.attr import Occlusion
from torchvision.transforms.functional import gaussian_blur

from lightwell.pictures.heatmap import enlarged
from lightwell.v1 import types_pb2 as types
from lightwell_server.contract import ClassTarget
from lightwell_server.methods._math import blurred
from tests.peers.files import MIXED, SIDE, SMALL, SMALL_FILES
from tests.peers.twins import agree

# 64 = 24 + 24 + 16 and 20 + 4 * 12 - 4: in both the last windows stick out and are cut off by the border. 32 fits.
PLACES = [(24, 24), (20, 12), (32, 32)]
READINGS = {"score": lambda logits: logits, "probability": lambda logits: logits.softmax(1)}


def mean_colour(case):
    return torch.tensor(case.model.facts.mean, dtype=torch.float64).view(1, 3, 1, 1)


def masked(case, window, stride):
    """Every masked picture, row by row."""
    begins = range(0, SIDE - window + stride, stride)
    for top in begins:
        for left in begins:
            x = case.image.clone()
            x[:, :, top : top + window, left : left + window] = mean_colour(case)
            yield x


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("readout", READINGS)
@pytest.mark.parametrize(("window", "stride"), PLACES)
def test_grid_of_values(case, window, stride, readout):
    logits = case.twin(torch.cat(list(masked(case, window, stride))))
    ours = case.ask("occlusion", ClassTarget(3), window=window, stride=stride, value=readout)
    shape = ours.map.values.shape
    theirs = READINGS[readout](logits)[:, 3].view(shape)
    clean = READINGS[readout](case.twin(case.image))[0, 3]
    agree(ours.tensors["value"], theirs)
    agree(ours.map.values, clean - theirs)
    agree(ours.measures["clean_value"], clean)
    assert torch.equal(ours.tensors["top_class"].long(), logits.argmax(1).view(shape))


def as_captum(case, window, stride, readout):
    """captum's map against ours, enlarged by the message that a caller gets.

    Both give a pixel the mean drop of the windows that cover it. captum repeats it over the colours, and leaves float64
    for its last division, as our enlargement does: hence 1e-6; the grid itself is held to 1e-8 above.
    """
    theirs = Occlusion(lambda x: READINGS[readout](case.twin(x))).attribute(
        case.image,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        target=case.top,
        baselines=mean_colour(case).expand_as(case.image),
        perturbations_per_eval=9,
    )
    ours = case.ask("occlusion", window=window, stride=stride, value=readout).map
    assert ours.enlargement == "windows"
    message = types.Heatmap(
        enlargement=types.ENLARGEMENT_WINDOWS, height=SIDE, width=SIDE, window=ours.window, stride=ours.stride
    )
    agree(enlarged(ours.values.numpy(), message), theirs[0, 0], 1e-6)
    assert torch.equal(theirs[0, 0], theirs[0, 2])


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
def test_captum(case):
    as_captum(case, 24, 24, "probability")


@pytest.mark.parametrize("case", [f"{name}-pt2" for name in SMALL], indirect=True)
@pytest.mark.parametrize("readout", READINGS)
def test_captum_where_windows_overlap(case, readout):
    as_captum(case, 20, 12, readout)


@pytest.mark.parametrize(("height", "width", "sigma"), [(35, 41, 8.75), (96, 96, 2.5), (5, 7, 30.0), (2, 2, 0.25)])
def test_the_blur_is_torchvisions(height, width, sigma):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    radius = min(math.ceil(3 * sigma), min(height, width) - 1)
    theirs = gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
    assert torch.allclose(blurred(image, sigma), theirs, atol=1e-5)


def test_a_blur_as_wide_as_a_large_image_takes_a_moment():
    began = time.monotonic()
    assert blurred(torch.full((1, 3, 600, 600), 0.5), 150).sub(0.5).abs().max() < 1e-5
    assert time.monotonic() - began < 3
