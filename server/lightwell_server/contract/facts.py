"""What a method may know of a model before it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Activation = Literal["softmax", "sigmoid", "none"]
"""What turns scores into probabilities: softmax for one class of many, sigmoid for many labels; none for a regression,
whose values are no scores of classes."""


@dataclass(frozen=True)
class Grid:
    """The places of a layer's values: rows and columns, of tokens in the order of rows, with others `front` and
    `behind`, which have no place."""

    rows: int
    columns: int
    front: int = 0
    behind: int = 0

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.front + self.rows * self.columns + self.behind

    def laid_out(self, values: Tensor) -> Tensor:
        """Values [n, channels, rows, columns] as they are; tokens [n, tokens, channels] as such."""
        if values.dim() == 4:
            return values
        placed = values[:, self.front : self.tokens - self.behind]
        return placed.transpose(1, 2).reshape(*values.shape[::2], self.rows, self.columns)


@dataclass(frozen=True)
class Layer:
    """A layer as methods and callers see it: a module's call, or (`functional`) an operation outside of any module of
    its own. `shape` is its output's without the batch, at the card's input size, and `grid` the places of that, if
    they are known; `share` is its part of a forward's multiplications and additions, with all that is inside it;
    `aliases` are the card's names for it. Behind a `head` no weights come."""

    name: str
    type: str
    shape: tuple[int, ...]
    functional: bool = False
    share: float = 0.0
    aliases: tuple[str, ...] = ()
    grid: Grid | None = None
    head: bool = False

    @property
    def has_grid(self) -> bool:
        """Whether its output has height and width."""
        return self.grid is not None

    @property
    def tokens(self) -> bool:
        """Whether its places are tokens [tokens, channels]."""
        return self.has_grid and len(self.shape) == 2

    def called(self, name: str) -> bool:
        """Whether a name means this layer: its own, an alias, or that of a module called several times."""
        return name == self.name or name in self.aliases or name == self.name.partition("@")[0]


@dataclass(frozen=True)
class Facts:
    """What a method may know of a model before it asks. `outputs` are the shapes of the tensors that it gives, without
    the batch, by their paths, and `output` is the path of the main one. `attended` is the last normalisation before a
    transformer's last attention: behind it only the class token reaches the scores. `pooled` is the layer whose mean
    over all positions is the scores, or what a linear layer makes them of; `embeds` tells whether there is a linear
    layer at all; `tensor`, whether its images are tensors of other channels than colours, for each of which `mean` then
    has a value. `channels` is 1 for a model of luminance: it sees grey alone, so nothing that is made for it has a
    colour of its own."""

    layers: tuple[Layer, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    channels: int = 3
    kind: str = "classifier"
    classes: int = 0
    any_size: bool = False
    has_relu: bool = False
    activation: Activation = "softmax"
    attended: str | None = None
    pooled: str | None = None
    embeds: bool = False
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: str = ""
    defaults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tensor: bool = False

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, or None; of a module called several times the last call, if none is named."""
        return next((layer for layer in reversed(self.layers) if layer.called(name)), None)

    @property
    def modules(self) -> tuple[Layer, ...]:
        """The layers that are modules; of a file that has lost them, all."""
        return tuple(layer for layer in self.layers if not layer.functional) or self.layers
