"""Models on disk and their eager twins, made once for all comparisons."""

from functools import cache

import pytest
import torch
import torchvision
from torch import nn

from lightwell_server.models.card import Card, InputCard
from lightwell_server.models.store import load_file
from tests.nets import FORMS, export
from tests.peers.twins import NETS, SIDE, Case, Twin, picture


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """`make(net, form, dtype)`: a file of that form, lifted, beside the network that it was exported from."""
    folder = tmp_path_factory.mktemp("peers")

    @cache
    def made(name, form, dtype=torch.float64):
        net = lively(name)
        card = Card(input=InputCard(size=(SIDE, SIDE)))
        path = export(net, form, folder, torch.rand(2, 3, SIDE, SIDE))
        return Case(name, load_file(path, card, (), name, "1", "cpu", dtype), Twin(net, card).to(dtype))

    return made


def lively(name):
    """A network with random weights and biases whose batch norms hold the statistics of random pictures: with any
    others the picture would hardly reach the last layer."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(num_classes=10)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    with torch.no_grad():
        net.train()(torch.cat([(picture(seed).float() - 0.45) / 0.225 for seed in range(8)]))
    return net.eval()


@pytest.fixture(params=[f"{name}-{form}" for name in NETS for form in FORMS])
def case(request, make):
    """Every network in every form, in float64. A test that needs fewer names them with `parametrize(...,
    indirect=True)`."""
    return make(*request.param.split("-"))
