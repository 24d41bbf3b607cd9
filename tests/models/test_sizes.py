"""Images of other sizes than the card's: rows are counted, so that none is ever another caller's."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightwell import Client, InvalidArgumentError, Saliency
from lightwell_server.contract import ACT, GRAD, OUT, Ask, Edit, Part
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.answer import answer
from lightwell_server.models.lifting.lift import Sample, lift
from tests.nets import PLAIN, export, seeded
from tests.serving import served

SIDE = 16
RESHAPED = {
    "view": lambda y, n: y.view(-1, 64),
    "reshape": lambda y, n: y.reshape(-1, 64),
    "view, flatten": lambda y, n: y.view(-1, 4, 4, 4).flatten(1),
    "unflatten": lambda y, n: y.flatten().unflatten(0, (-1, 64)),
    "first rows": lambda y, n: y.view(-1, 64)[: n.shape[0]],
    "mean of rounds": lambda y, n: y.view(-1, n.shape[0], 64).mean(0),
    "mean of parts": lambda y, n: y.view(n.shape[0], -1, 64).mean(1),
    "channels": lambda y, n: y.permute(0, 2, 3, 1).reshape(-1, 64),
    "pooled": lambda y, n: F.adaptive_avg_pool2d(y, 4).flatten(1),
}
"""What makes of [n, 4, 4, 4] at the card's size [n, 64]; at others some of it makes more rows, or mixes them."""


class Reshaped(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.fc = RESHAPED[kind], nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.kind(F.max_pool2d(torch.tanh(self.conv(x)), 4), x))


@functools.cache
def graph_of(kind):
    with tempfile.TemporaryDirectory() as folder:
        path = export(seeded(Reshaped, kind), "traced", Path(folder), torch.rand(2, 3, SIDE, SIDE))
        return lift(path, Sample((SIDE, SIDE), **PLAIN)).to("cpu", torch.float64)


def asked(graph, rows, **more):
    return answer(graph, [Part(Ask(rows, lambda v, i: v[:, 1], want=OUT | GRAD | ACT, **more), 0, len(rows))])[0]


@given(
    st.sampled_from(sorted(RESHAPED)),
    st.sampled_from([(16, 16), (8, 32), (32, 32), (16, 32), (48, 80), (24, 24), (4, 64)]),
    st.integers(2, 5),
    st.sampled_from(["<input>", "conv"]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_alone_is_as_in_a_crowd_or_refused(kind, size, count, wrt, edited):
    graph, rows = graph_of(kind), torch.rand(count, 3, *size, dtype=torch.float64)
    more = {"wrt": wrt, **({"edit": Edit("conv", lambda values, index: values * 0.5)} if edited else {})}
    try:
        together = asked(graph, rows, **more)
    except InvalidArgument as error:
        assert (
            size != (SIDE, SIDE) and f"{SIDE} x {SIDE}" in error.message and f"{size[0]} x {size[1]}" in error.message
        )
        with pytest.raises(InvalidArgument):
            asked(graph, rows[:1], **more)
        return
    for i in range(count):
        alone = asked(graph, rows[i : i + 1], **more)
        for name in ("out", "grad", "act"):
            assert torch.allclose(getattr(together, name)[i], getattr(alone, name)[0], rtol=0, atol=1e-8), (kind, name)


def test_what_keeps_its_rows_takes_any_size():
    taking = {kind for kind in RESHAPED if graph_of(kind).any_size}
    assert taking == {"mean of parts", "pooled"}


def test_one_row_that_becomes_many_is_counted_too():
    """An edit of many rows runs one up to its layer."""
    graph, row = graph_of("view"), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    edit = Edit("conv", lambda values, index: values * (1 - 0.1 * index.view(-1, 1, 1, 1)), count=3)
    with pytest.raises(InvalidArgument, match="16 x 16"):
        answer(graph, [Part(Ask(row, want=OUT, edit=edit), 0, 3)])
    given = answer(graph, [Part(Ask(row[:, :, :SIDE, :SIDE], want=OUT, edit=edit), 0, 3)])[0]
    assert given.out.shape == (3, 5)


def test_a_server_refuses_the_size_and_names_both(tmp_path):
    version = tmp_path / "net" / "1"
    version.mkdir(parents=True)
    export(seeded(Reshaped, "view"), "traced", tmp_path, torch.rand(2, 3, SIDE, SIDE)).rename(version / "model.pt")
    (version / "card.toml").write_text("[input]\nsize = [16, 16]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    with served(tmp_path) as server, Client(server.address) as client:
        image = torch.rand(3, 32, 32).numpy()
        with pytest.raises(InvalidArgumentError, match="the image is 32 x 32, the model takes 16 x 16"):
            client.explain(image, Saliency(), fit="exact")
        assert client.explain(image, Saliency()).map.shape == (SIDE, SIDE)


class Once(nn.Module):
    """A trace of one image; at another size its reshape makes several rows of it."""

    def __init__(self, squeezed):
        super().__init__()
        self.squeezed, self.conv, self.fc = squeezed, nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5)

    def forward(self, x):
        x = x.squeeze(0) if self.squeezed else x.reshape(1, 3, x.shape[2], x.shape[3])
        return self.fc(F.max_pool2d(self.conv(x).relu(), 4).view(-1, 64))


@pytest.mark.parametrize("squeezed", [False, True])
def test_rows_of_a_file_of_one_image_are_counted(tmp_path, squeezed):
    path = export(seeded(Once, squeezed), "traced", tmp_path, torch.rand(1, 3, SIDE, SIDE))
    graph = lift(path, Sample((SIDE, SIDE), **PLAIN))
    assert not graph.any_size
    with pytest.raises(InvalidArgument, match="16 x 16"):
        asked(graph, torch.rand(2, 3, 32, 32))


class Sliced(nn.Module):
    """One place for each image at its own size and at the other that is proved, several at others; the first of all
    places are taken."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        places = F.max_pool2d(self.conv(x).relu(), (40, 64), (64, 128))
        return self.fc(places.view(-1, 4))[: x.shape[0]]


def test_rows_are_counted_on_the_way_as_well(tmp_path):
    path = export(seeded(Sliced), "traced", tmp_path, torch.rand(2, 3, 40, 64))
    graph = lift(path, Sample((40, 64), **PLAIN))
    assert graph.any_size
    with pytest.raises(InvalidArgument, match=r"40 x 64, makes 6 rows of 3 at 104 x 64"):
        asked(graph, torch.rand(3, 3, 104, 64))
