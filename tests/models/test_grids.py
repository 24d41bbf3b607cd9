"""Which layers have places, and which: followed through the graph, never told from the number of tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell import Channel, GradCam, InvalidArgumentError
from lightwell_server.catalog import catalog
from lightwell_server.contract import OUT, Ask, Grid, Part
from lightwell_server.errors import InvalidArgument, Refused
from lightwell_server.local import Local
from lightwell_server.models.answer import answer
from lightwell_server.models.card import Card
from lightwell_server.models.store import load_file
from lightwell_server.runtime.describe import described
from tests.methods.asking import PLAIN, ask
from tests.nets import export, seeded

PATCH, WIDTH = 4, 8
LAST = "the last layer with height and width"


def loaded(net, folder, size, form="traced", **card):
    """The network as a model of that size, in double precision."""
    card = Card.model_validate({"input": {"size": size, **PLAIN}, **card})
    path = export(net, form, folder, *card.sample().example(2))
    return load_file(path, card, (), type(net).__name__, "1", "cpu", torch.float64)


def grids(model):
    """The grid of every module, by name."""
    return {layer.name: layer.grid for layer in model.facts.modules}


def chosen(model):
    """The layer of Grad-CAM if none is named, and why."""
    return *catalog()["grad_cam"].layers(model.facts), catalog()["grad_cam"].reason(model.facts)


def shown(model, layer, size, rows, columns):
    """Whether a patch that differs is seen at its own place, wherever it lies."""
    grey = torch.full((1, 3, *size), 0.5, dtype=torch.float64)
    down, across = size[0] // rows, size[1] // columns
    for row, column in ((0, columns - 1), (rows - 1, 0), (rows // 2, columns // 2), (rows - 2, columns - 1)):
        marked = grey.clone()
        marked[..., row * down : (row + 1) * down, column * across : (column + 1) * across] = 1
        a, b = (ask(model, "activations", image, layer=layer).tensors["activations"] for image in (grey, marked))
        change = (a - b).abs().sum(0)
        if change.shape != (rows, columns) or int(change.argmax()) != row * columns + column:
            return False
    return True


class Block(nn.Module):
    """Attention over tokens, and a linear layer; a class token takes part or not."""

    def __init__(self):
        super().__init__()
        self.norm1, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.soft, self.norm2, self.mlp = nn.Softmax(-1), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, t):
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(-2, -3) for part in self.qkv(self.norm1(t)).chunk(3, -1))
        shares = self.soft(q @ k.transpose(-1, -2) / 2)
        t = t + (shares @ v).transpose(-2, -3).flatten(-2)
        return t + self.mlp(self.norm2(t))


class Tokens(nn.Module):
    """Patches with tokens in front and behind."""

    def __init__(self, size, front=0, behind=0):
        super().__init__()
        self.proj, self.block, self.norm = nn.Conv2d(3, WIDTH, PATCH, PATCH), Block(), nn.LayerNorm(WIDTH)
        self.front, self.behind = (nn.Parameter(torch.randn(1, count, WIDTH)) for count in (front, behind))
        places = size[0] * size[1] // PATCH**2
        self.place, self.head = nn.Parameter(torch.randn(1, front + places + behind, WIDTH)), nn.Linear(WIDTH, 5)

    def forward(self, x):
        t = self.proj(x).flatten(2).transpose(1, 2)
        spare = [token.expand(x.shape[0], -1, -1) for token in (self.front, self.behind)]
        t = torch.cat([spare[0], t, spare[1]], 1) + self.place
        return self.head(self.norm(self.block(t))[:, 0])


@pytest.mark.parametrize("form", ["traced", "pt2"])
@pytest.mark.parametrize(
    ("size", "front", "behind"),
    [((16, 24), 1, 0), ((8, 32), 0, 0), ((16, 16), 2, 0), ((24, 16), 5, 0), ((12, 16), 0, 1), ((16, 20), 1, 4)],
)
def test_tokens_have_the_rows_and_columns_of_their_patches(tmp_path, form, size, front, behind):
    model = loaded(seeded(Tokens, size, front, behind), tmp_path, size, form)
    rows, columns = size[0] // PATCH, size[1] // PATCH
    found = grids(model)
    assert found["proj"] == Grid(rows, columns)
    assert {found[name] for name in ("block.norm1", "block.mlp", "norm")} == {Grid(rows, columns, front, behind)}
    assert found["block.soft"] is None  # every token with every other
    assert chosen(model) == ("block.norm1", "the last normalisation before the last attention")
    assert all(shown(model, layer, size, rows, columns) for layer in ("proj", "block.norm1"))
    told = described(model)
    (layer,) = (layer for layer in told.layers if layer.name == "block.norm1")
    assert (layer.grid.rows, layer.grid.columns, layer.grid.front, layer.grid.behind) == (rows, columns, front, behind)
    (layer,) = (layer for layer in told.layers if layer.name == "block.soft")
    assert not layer.HasField("grid")
    (support,) = (method for method in told.methods if method.method == "grad_cam")
    assert list(support.default_layers) == ["block.norm1"] and support.choice.startswith("the last normalisation")


class Stages(nn.Module):
    """Tokens whose grid is halved."""

    def __init__(self, how):
        super().__init__()
        self.how, self.proj, self.norm = how, nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.LayerNorm(WIDTH)
        self.merge, self.down = nn.Linear(4 * WIDTH, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1)
        self.block, self.head = Block(), nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.proj(x).permute(0, 2, 3, 1)
        n, height, width, _ = x.shape
        x = self.norm(x)
        if self.how == "slices":
            x = self.merge(torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1))
        elif self.how == "reshape":
            x = x.reshape(n, height // 2, 2, width // 2, 2, WIDTH).permute(0, 1, 3, 2, 4, 5).flatten(3)
            x = self.merge(x)
        elif self.how == "conv":
            t = x.flatten(1, 2)
            x = self.down(t.transpose(1, 2).reshape(n, WIDTH, height, width)).permute(0, 2, 3, 1)
        elif self.how == "pool":
            x = F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        else:  # of four places one
            x = x[:, ::2, ::2]
        return self.head(self.block(x.flatten(1, 2)).mean(1))


@pytest.mark.parametrize("how", ["slices", "reshape", "conv", "pool", "subsample"])
def test_stages_halve_the_grid(tmp_path, how):
    size = (16, 24)
    model = loaded(seeded(Stages, how), tmp_path, size)
    assert model.facts.layer("norm").shape == (WIDTH, 4, 6)  # channels first
    found = grids(model)
    assert found["norm"] == Grid(4, 6) and found["block.norm1"] == found["block.mlp"] == Grid(2, 3)
    assert how == "subsample" or shown(model, "block.norm1", size, 2, 3)
    assert chosen(model)[0] == "block.norm1"


class Windows(nn.Module):
    """Attention in windows of 2 x 2 places that are shifted by one, as Swin has it."""

    def __init__(self):
        super().__init__()
        self.proj, self.block, self.norm = nn.Conv2d(3, WIDTH, PATCH, PATCH), Block(), nn.LayerNorm(WIDTH)
        self.back, self.head = nn.Identity(), nn.Linear(WIDTH, 5)
        self.rolled = nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.proj(x).permute(0, 2, 3, 1)
        n, height, width, c = x.shape
        y = self.rolled(x.roll((-1, -1), (1, 2)))
        y = y.view(n, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = (
            self.block(y)
            .view(n, height // 2, width // 2, 2, 2, c)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(n, height, width, c)
        )
        return self.head(self.norm(y.roll((1, 1), (1, 2)) + x).mean((1, 2)))


def test_windows_are_no_grid_and_what_is_made_of_them_is(tmp_path):
    size = (16, 24)
    model = loaded(seeded(Windows), tmp_path, size)
    found = grids(model)
    assert found["norm"] == Grid(4, 6) and model.facts.layer("norm").shape == (WIDTH, 4, 6)
    assert found["block.norm1"] is None and found["rolled"] is None  # elsewhere than a map would show them
    assert chosen(model) == ("norm", LAST) and shown(model, "norm", size, 4, 6)


class Turned(nn.Module):
    """Values in other orders than row by row, or not of the whole image."""

    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.act = how, nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.ReLU()
        self.odd, self.head = nn.GELU(), nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.act(self.conv(x))
        if self.how == "columns first":
            return self.head(self.odd(x.transpose(2, 3).flatten(2).transpose(1, 2)).mean(1))
        if self.how == "channels before tokens":
            return self.head(self.odd(x.flatten(2)).mean(2))
        if self.how == "turned":
            return self.head(self.odd(x.transpose(2, 3)).mean((2, 3)))
        if self.how == "flipped":
            return self.head(self.odd(x.flip(3)).mean((2, 3)))
        if self.how == "a quarter":
            return self.head(self.odd(x[:, :, :2, :3]).mean((2, 3)))
        if self.how == "cosines of all with all":
            t = x.flatten(2)
            return self.head(x.mean((2, 3)) + self.odd((t.transpose(1, 2) @ t)[:, None]).mean((1, 2, 3))[:, None])
        if self.how == "two grids":
            t = torch.cat([x.flatten(2), F.avg_pool2d(x, 2).flatten(2)], 2)
            return self.head(self.odd(t.transpose(1, 2)).mean(1))
        return self.head(self.odd(x.mean((2, 3), keepdim=True).expand_as(x)).mean((2, 3)))  # the mean of all


@pytest.mark.parametrize(
    "how",
    [
        "columns first",
        "channels before tokens",
        "turned",
        "flipped",
        "a quarter",
        "cosines of all with all",
        "two grids",
        "mean",
    ],
)
def test_what_a_map_would_show_elsewhere_has_no_grid(tmp_path, how):
    model = loaded(seeded(Turned, how), tmp_path, (16, 24))
    found = grids(model)
    assert found["act"] == Grid(4, 6) and found["odd"] is None
    assert chosen(model) == ("act", LAST)
    with pytest.raises(InvalidArgument, match="odd has no height and width; its output is"):
        ask(model, "grad_cam", torch.rand(1, 3, 16, 24), layer="odd")


class Pseudo(nn.Module):
    """Values [n, a, b] whose `a` are no places."""

    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.act = how, nn.Conv2d(3, 16, 3, PATCH, 1), nn.ReLU()
        self.flat, self.place, self.fc, self.out = nn.Flatten(2), nn.Linear(24, 1), nn.Linear(16, 5), nn.Linear(16, 16)
        self.line, self.query = nn.Conv1d(16, 16, 3, padding=1), nn.Parameter(torch.randn(1, 4, 16))
        self.rnn, self.mix = nn.GRU(16, 16, batch_first=True), nn.Linear(24, 24)

    def forward(self, x):
        x = self.act(self.conv(x))
        t = self.flat(x)
        if self.how == "flattened":
            return self.fc(self.place(t).squeeze(2))
        if self.how == "line":
            return self.fc(self.line(t).mean(2))
        if self.how == "queries":
            places = t.transpose(1, 2)
            return self.fc(self.out((self.query @ t).softmax(2) @ places).mean(1))
        if self.how == "clusters":
            places = t.transpose(1, 2)
            shares = places[..., :4].softmax(1)
            return self.fc(self.out(shares.transpose(1, 2) @ places).mean(1))
        if self.how == "steps":
            return self.fc(self.out(self.rnn(t.transpose(1, 2))[0]).mean(1))
        return self.fc(self.out(self.mix(t).transpose(1, 2)).mean(1))  # all tokens mixed


@pytest.mark.parametrize("how", ["flattened", "line", "queries", "clusters", "steps", "mixed"])
def test_what_does_not_descend_from_places_is_no_layer_of_tokens(tmp_path, how):
    model = loaded(seeded(Pseudo, how), tmp_path, (16, 24))
    assert {name for name, grid in grids(model).items() if grid is not None} == {"conv", "act"}
    assert chosen(model) == ("act", LAST)


class Mixer(nn.Module):
    """Tokens that are mixed by a linear layer beside a skip: they stay where they are."""

    def __init__(self):
        super().__init__()
        self.proj, self.mix = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Linear(24, 24)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        t = self.proj(x).flatten(2)
        return self.head(self.norm((t + self.mix(t)).transpose(1, 2)).mean(1))


def test_a_skip_keeps_the_places(tmp_path):
    model = loaded(seeded(Mixer), tmp_path, (16, 24))
    assert grids(model)["norm"] == Grid(4, 6) and grids(model)["mix"] is None


class Boxes(nn.Module):
    """A detector: boxes and scores of every place of two scales."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.down = nn.Conv2d(3, 16, 3, PATCH, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1)
        self.head, self.sides = nn.ModuleList([nn.Conv2d(16, 7, 1), nn.Conv2d(16, 7, 1)]), nn.ReLU()

    def forward(self, x):
        fine = self.act(self.conv(x))
        scales = zip(self.head, (fine, self.down(fine)), strict=True)
        y = torch.cat([head(scale).flatten(2) for head, scale in scales], 2)
        return torch.cat([self.sides(y[:, :4]), y[:, 4:].sigmoid()], 1)


def test_a_detectors_layer_is_the_last_before_its_heads(tmp_path):
    model = loaded(seeded(Boxes), tmp_path, (16, 24), output={"activation": "none"})
    assert chosen(model) == ("down", f"{LAST} before the heads")


def test_the_cards_layer_is_told_as_such(tmp_path):
    model = loaded(seeded(Mixer), tmp_path, (16, 24), layers={"grad_cam": "proj"})
    assert chosen(model) == ("proj", "named by the card")


class Unknown(nn.Module):
    """Tokens that a Fourier transform has mixed."""

    def __init__(self):
        super().__init__()
        self.proj, self.norm, self.head = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
        self.token = nn.Parameter(torch.randn(1, 2, WIDTH))

    def forward(self, x):
        t = self.proj(x).flatten(2).transpose(1, 2).cumsum(1)
        return self.head(self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), t], 1)).mean(1))


def test_a_card_gives_the_places_that_were_not_found(tmp_path):
    net = seeded(Unknown)
    assert grids(loaded(net, tmp_path, (16, 24)))["norm"] is None
    model = loaded(net, tmp_path, (16, 24), tokens={"rows": 4, "columns": 6, "front": 2})
    assert grids(model) == {"proj": Grid(4, 6), "norm": Grid(4, 6, 2), "head": None}
    assert ask(model, "activations", torch.rand(1, 3, 16, 24), layer="norm").tensors["activations"].shape == (8, 4, 6)
    with pytest.raises(
        Refused, match=r"the card says 4 x 6 tokens and 1 in front, and no layer has 25; .* have 24, 26"
    ):
        loaded(net, tmp_path, (16, 24), tokens={"rows": 4, "columns": 6, "front": 1})


class Free(nn.Module):
    """Tokens of images of any size."""

    def __init__(self):
        super().__init__()
        self.proj, self.block, self.head = nn.Conv2d(3, WIDTH, PATCH, PATCH), Block(), nn.Linear(WIDTH, 5)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x):
        t = self.proj(x).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), t], 1)).mean(1))


def test_another_size_has_another_grid(tmp_path):
    model = loaded(seeded(Free), tmp_path, (16, 16))
    assert model.facts.any_size and model.at((16, 16)) is model
    other = model.at((24, 32)).facts
    assert other.layer("block.norm1").grid == Grid(6, 8, 1) and other.layer("block.norm1").shape == (49, WIDTH)
    assert other.layer("proj").shape == (WIDTH, 6, 8)
    values = answer(model.graph, [Part(Ask(torch.rand(1, 3, 24, 32), at="block.norm1", want=OUT), 0, 1)])[0].out
    assert other.layer("block.norm1").grid.laid_out(values).shape == (1, WIDTH, 6, 8)


def test_a_request_at_another_size_is_laid_out_by_its_own_grid():
    card = Card.model_validate({"input": {"size": (16, 16), **PLAIN}})
    image = np.random.default_rng(0).random((3, 16, 36), dtype=np.float32)  # as many patches as a square has
    with Local(seeded(Free), card) as local:
        seen = local.explain(image, GradCam(), fit="exact", target=Channel(layer="block.mlp", channel=1))
        assert seen.values.shape == (4, 9) and seen.message.resolved.grad_cam.layer == "block.norm1"


def test_a_size_that_a_model_does_not_take_is_told_with_its_own():
    card = Card.model_validate({"input": {"size": (16, 16), **PLAIN}})
    refused = pytest.raises(InvalidArgumentError, match=r"the image is 16 x 32, the model takes 16 x 16")
    with Local(seeded(Tokens, (16, 16), 1), card) as local, refused:
        local.explain(np.zeros((3, 16, 32), np.float32), GradCam(), fit="exact")


class Coded(nn.Module):
    """A code of the whole image in the shape of a map."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.code = nn.Conv2d(3, WIDTH, 3, 4, 1), nn.ReLU(), nn.Linear(WIDTH, 16)
        self.shaped, self.head = nn.Unflatten(1, (4, 2, 2)), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.shaped(self.code(self.act(self.conv(x)).mean((2, 3)))).flatten(1))


class Anchors(nn.Module):
    """Two boxes at each place, one after the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head, self.boxes = (
            nn.Conv2d(3, WIDTH, 3, 4, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.boxes(self.head(self.act(self.conv(x))).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))


@pytest.mark.parametrize(
    ("make", "pseudo", "card"), [(Coded, "shaped", {}), (Anchors, "boxes", {"output": {"activation": "none"}})]
)
def test_values_of_the_whole_image_and_several_at_one_place_are_no_grid(tmp_path, make, pseudo, card):
    model = loaded(seeded(make), tmp_path, (32, 32), **card)
    assert grids(model)["act"] == Grid(8, 8) and grids(model)[pseudo] is None
    assert chosen(model)[0] == "act"
