"""Models on disk and their eager twins, made once for all comparisons."""

from functools import cache

import pytest
import torch
import torchvision

from lightwell_server.models.card import Card, InputCard
from lightwell_server.models.store import load_file
from tests.nets import FORMS, export, seeded
from tests.peers.twins import NETS, SIDE, Case, Twin


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """`make(net, form, dtype)`: a file of that form, lifted, beside the network that it was exported from."""
    folder = tmp_path_factory.mktemp("peers")

    @cache
    def made(name, form, dtype=torch.float64):
        net = seeded(lambda: getattr(torchvision.models, name)(num_classes=10))
        card = Card(input=InputCard(size=(SIDE, SIDE)))
        path = export(net, form, folder, torch.rand(2, 3, SIDE, SIDE))
        return Case(name, load_file(path, card, (), name, "1", "cpu", dtype), Twin(net, card).to(dtype))

    return made


@pytest.fixture(params=[f"{name}-{form}" for name in NETS for form in FORMS])
def case(request, make):
    """Every network in every form, in float64. A test that needs fewer names them with `parametrize(..., indirect=True)`."""
    return make(*request.param.split("-"))
