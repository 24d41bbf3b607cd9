"""Saliency is the gradient of the eager network: captum's for classes, autograd's for every other target and way over
the colours."""

import pytest
import torch
from captum.attr import Saliency

from lightwell_server.contract import ChannelTarget, ClassTarget, ContrastTarget
from tests.peers.captums import attributed
from tests.peers.files import LAYERS, MIXED, SMALL_FILES
from tests.peers.twins import agree

READINGS = {
    "score": lambda logits: logits,
    "probability": lambda logits: logits.softmax(1),
    "log_probability": lambda logits: logits.log_softmax(1),
}
COLOURS = {
    "max": lambda grad: grad.gather(1, grad.abs().argmax(1, keepdim=True))[0, 0],
    "sum": lambda grad: grad[0].sum(0),
}


def gradient(case, score):
    """d score(image) / d image of the twin, by autograd."""
    x = case.image.clone().requires_grad_()
    return torch.autograd.grad(score(x), x)[0]


def test_captum(case):
    agree(case.ask("saliency").map.values, attributed("Saliency", case.twin, abs=True).amax(0))


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
@pytest.mark.parametrize("readout", READINGS)
def test_captum_on_each_reading_of_a_class(case, readout):
    peer = Saliency(lambda x: READINGS[readout](case.twin(x)))
    theirs = peer.attribute(case.image.clone().requires_grad_(), target=3, abs=False)
    ours = case.ask("saliency", ClassTarget(3, readout), magnitude=False, channels="none")
    agree(ours.tensors["gradient"], theirs[0])


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("channels", COLOURS)
@pytest.mark.parametrize("magnitude", [True, False])
def test_ways_over_the_colours(case, magnitude, channels):
    grad = gradient(case, lambda x: case.twin(x)[0, 3])
    ours = case.ask("saliency", ClassTarget(3), magnitude=magnitude, channels=channels)
    agree(ours.map.values, COLOURS[channels](grad.abs() if magnitude else grad))
    assert ours.map.signed is not magnitude


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
def test_all_colours(case):
    grad = gradient(case, lambda x: case.twin(x)[0, 3])
    ours = case.ask("saliency", ClassTarget(3), magnitude=False, channels="none")
    agree(ours.tensors["gradient"], grad[0])
    agree(ours.map.values, COLOURS["max"](grad))


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
def test_contrast(case):
    theirs = gradient(case, lambda x: case.twin(x)[0, 3] - case.twin(x)[0, 5])
    ours = case.ask("saliency", ContrastTarget(3, 5), magnitude=False, channels="none")
    agree(ours.tensors["gradient"], theirs[0])


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
@pytest.mark.parametrize("position", [None, (1, 0)])
@pytest.mark.parametrize("depth", range(3))
def test_channels_and_neurons(case, depth, position):
    layer = LAYERS[case.name][depth]
    channel = int(case.twin.features(case.image, [layer])[0][0, :, 1, 0].argmax())  # one that is not cut off there

    def score(x):
        (features,) = case.twin.features(x, [layer])
        return features[0, channel].mean() if position is None else features[0, channel, 1, 0]

    ours = case.ask("saliency", ChannelTarget(layer, channel, position), magnitude=False, channels="none")
    agree(ours.tensors["gradient"], gradient(case, score)[0])
