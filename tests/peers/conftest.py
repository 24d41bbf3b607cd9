"""Models on disk and their eager twins, made once for all comparisons."""

from copy import deepcopy
from functools import cache, lru_cache

import pytest
import torch

from lightwell_server.models.card import Card, InputCard
from lightwell_server.models.store import load_file
from tests.nets import export
from tests.peers.files import FILES, SIDE
from tests.peers.nets import lively
from tests.peers.twins import Case, Twin, picture

CARD = Card(input=InputCard(size=(SIDE, SIDE), mean=(0.5, 0.4375, 0.375), std=(0.25, 0.21875, 0.234375)))
"""Its numbers are the same in every precision."""


def pytest_collection_modifyitems(items):
    """The comparisons of one file follow one another, so that few files need to be in memory."""

    def place(item):
        file = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        return FILES.index(file) if file in FILES else -1

    items.sort(key=place)


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """`make(net, form, dtype)`: a file of that form, lifted, beside the network that it was exported from."""
    folder = tmp_path_factory.mktemp("peers")

    @cache
    def file(name, form):
        # What freezing folds it also rounds: a frozen file of single precision is another function, by a ten-millionth.
        dtype = torch.float64 if form == "frozen" else torch.float32
        return export(deepcopy(lively(name)).to(dtype), form, folder, torch.rand(2, 3, SIDE, SIDE, dtype=dtype))

    @cache
    def twin(name, dtype):
        return Twin(deepcopy(lively(name)), CARD, picture(0)).to(dtype)

    @lru_cache(maxsize=4)
    def made(name, form, dtype=torch.float64):
        model = load_file(file(name, form), CARD, (), name, "1", "cpu", dtype)
        return Case(name, form, model, twin(name, dtype))

    return made


@pytest.fixture(params=FILES)
def case(request, make):
    """Every network in every form, in float64. A test that needs fewer names them with `parametrize(...,
    indirect=True)`."""
    return make(*request.param.split("-"))
