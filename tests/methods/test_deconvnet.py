"""Deconvnet: Zeiler and Fergus' passes upwards, written out with transposed convolutions and unpooling."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.contract import ChannelTarget, ClassTarget
from lightwell_server.errors import NotApplicable
from tests.methods.asking import ask, close, model, picture, refused
from tests.nets import Linear, seeded


class Pooled(nn.Module):
    """Two convolutions with ReLUs, a maximum over 2 x 2 places between them, and a linear layer over places."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(4 * 8 * 8, 5)

    def forward(self, x):
        x = self.pool(self.first(x).relu())
        return self.head(self.second(x).relu().flatten(1))


@pytest.fixture(scope="module")
def net():
    return seeded(Pooled).double()


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(Pooled), tmp_path_factory.mktemp("deconvnet"))


def upwards(net, image, signal):
    """From a signal [1, 4, 8, 8] behind the second ReLU to the pixels: each ReLU cuts off what is negative in it,
    whatever it cut off of the image; the pooling gives back where it took from."""
    signal = F.conv_transpose2d(signal.relu(), net.second.weight, padding=1)
    _, places = F.max_pool2d(net.first(image).relu(), 2, return_indices=True)
    signal = F.max_unpool2d(signal, places, 2)
    return F.conv_transpose2d(signal.relu(), net.first.weight, padding=1)[0].detach()


@pytest.mark.parametrize("index", range(5))
def test_a_classs_weights_are_sent_upwards(lifted, net, index):
    image = picture()
    theirs = upwards(net, image, net.head.weight[index].view(1, 4, 8, 8))
    seen = ask(lifted, "deconvnet", image, ClassTarget(index), channels="none")
    assert close(seen.tensors["gradient"], theirs) and seen.map.signed
    assert close(seen.map.values, theirs.gather(0, theirs.abs().argmax(0, keepdim=True))[0])
    assert close(ask(lifted, "deconvnet", image, ClassTarget(index), channels="sum").map.values, theirs.sum(0))
    bright = ask(lifted, "deconvnet", image, ClassTarget(index), magnitude=True)
    assert close(bright.map.values, theirs.abs().amax(0)) and not bright.map.signed


def test_a_neuron_in_front_of_a_relu_is_sent_upwards_even_where_it_is_cut_off(lifted, net):
    image, signal = picture(), torch.zeros(1, 4, 8, 8, dtype=torch.float64)
    below = net.second(net.pool(net.first(image).relu()))[0] < 0
    channel, row, column = below.nonzero()[0].tolist()
    signal[0, channel, row, column] = 1
    ours = ask(lifted, "deconvnet", image, ChannelTarget("second", channel, (row, column)), channels="none")
    assert close(ours.tensors["gradient"], upwards(net, image, signal))


def test_without_a_pooling_it_is_the_same_for_every_image(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)).eval()
    lifted, weights = model(net, tmp_path), net.double()[3].weight[1].view(1, 4, 14, 14)
    theirs = F.conv_transpose2d(weights.relu(), net[0].weight)[0].detach()
    for seed in range(2):
        ours = ask(lifted, "deconvnet", picture(seed=seed), ClassTarget(1), channels="none").tensors["gradient"]
        assert close(ours, theirs)


def test_a_model_without_relus_is_named_with_the_method(tmp_path):
    with pytest.raises(NotApplicable, match="no ReLU") as told:
        ask(model(seeded(Linear), tmp_path), "deconvnet", picture())
    assert told.value.subject == "Linear@1/deconvnet"


def test_words_that_it_does_not_know_are_refused(lifted):
    assert refused(lifted, "deconvnet", channels="mean") == ["deconvnet.channels"]
