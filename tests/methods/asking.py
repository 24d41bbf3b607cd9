"""Methods asked of small networks in this process, in double precision."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.catalog import catalog
from lightwell_server.contract import ClassTarget
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.card import Card
from lightwell_server.models.store import Model, load_file
from tests.drive import drive
from tests.nets import export

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
CLASS = 2
TARGET = ClassTarget(CLASS)


class Tokens(nn.Module):
    """Sixteen places as tokens behind a class token, with attention between them."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))
        x = x + F.scaled_dot_product_attention(x, x, x)
        return self.head(x[:, 0])


class Placed(nn.Module):
    """Red and green of 2 x 2 pixels are the channels of `maps`. Class 1 weighs each place by `WEIGHTS`, which are its
    gradient; class 0 by their negatives."""

    WEIGHTS = ((1.0, -1.0), (2.0, 0.0)), ((-2.0, 0.0), (1.0, -3.0))

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1, bias=False)
        self.head = nn.Linear(8, 2)
        weights = torch.tensor(self.WEIGHTS).flatten()
        self.maps.weight.data = torch.eye(3)[:2, :, None, None]
        self.head.weight.data = torch.stack([-weights, weights])
        self.head.bias.data.zero_()

    def forward(self, x):
        return self.head(self.maps(x).flatten(1))


COLORS = torch.tensor(
    [[[[1.0, 0.0], [0.5, 0.5]], [[0.25, 0.75], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]], dtype=torch.float64
)
"""A picture for `Placed`: its scores are -0.5 and 0.5, of which red gives 2 to class 1 and green -1.5."""


def model(net: torch.nn.Module, folder: Path, form: str = "scripted", side: int = 16, **card) -> Model:
    """The network as a model that takes pixels as they are, unless the card says otherwise."""
    card = Card.model_validate({"input": {"size": (side, side), **PLAIN}, **card})
    path = export(net, form, folder, *card.sample().example(2))
    return load_file(path, card, (), type(net).__name__, "1", "cpu", torch.float64)


def picture(side: int = 16, seed: int = 0) -> torch.Tensor:
    """Random pixels [1, 3, side, side]."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ask(model: Model, name: str, image: torch.Tensor, target=None, seed: int = 0, seen=None, inputs=None, **given):
    """A method's result; parameters are checked and filled in as for a request."""
    method = catalog()[name]
    parameters = method.parameters(model.facts, given, model.id)
    steps = method.start(image, target or ClassTarget(), model.facts, seed, parameters)
    return drive(steps, model.graph, inputs, seen)


def refused(model: Model, name: str, image: torch.Tensor | None = None, target=None, **given) -> list[str]:
    """The fields that a refusal names."""
    with pytest.raises(InvalidArgument) as told:
        ask(model, name, picture() if image is None else image, target, **given)
    return [path for path, _ in told.value.violations]


def reading(net: nn.Module, image: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network's module gives for an image, and its gradient for the score of `CLASS`, [channels, h, w] each."""
    kept = []
    hook = net.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    score = net(image)[0, CLASS]
    hook.remove()
    (grads,) = torch.autograd.grad(score, kept[0])
    return kept[0].detach()[0], grads[0]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two results agree to 1e-8 of the largest value."""
    assert ours.shape == theirs.shape and bool(theirs.any())
    return float((ours - theirs).abs().max()) <= 1e-8 * float(theirs.abs().max())
