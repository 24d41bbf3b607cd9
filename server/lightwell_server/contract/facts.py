"""What a method may know of a model before it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Activation = Literal["softmax", "sigmoid", "none"]
"""What turns scores into probabilities: softmax for one class of many, sigmoid for several labels. With none there is
no such function: the outputs are not scores of classes, or are probabilities already."""


@dataclass(frozen=True)
class Grid:
    """The positions of a layer's values: `rows` times `columns`, each at least 1. The tokens of a transformer are in
    row-major order. `front` tokens before them and `behind` tokens after them, such as the class token, have no
    position."""

    rows: int
    columns: int
    front: int = 0
    behind: int = 0

    @property
    def tokens(self) -> int:
        """The number of all tokens, with or without a position."""
        return self.front + self.rows * self.columns + self.behind

    def laid_out(self, values: Tensor) -> Tensor:
        """Activations as feature maps [n, channels, rows, columns], in the dtype of `values`, floating. `values` are
        tokens [n, tokens, channels], or feature maps, which are returned as they are."""
        if values.dim() == 4:
            return values
        placed = values[:, self.front : self.tokens - self.behind]
        return placed.transpose(1, 2).reshape(*values.shape[::2], self.rows, self.columns)


@dataclass(frozen=True)
class Layer:
    """A layer of the model: a call of a module, or an operation outside of any module of its own.

    - `name`: the path of the module or the operation.
    - `type`: the class of the module, or the name of the operation.
    - `shape`: the shape of its output without the batch, at the input size of the model card.
    - `functional`: whether it is an operation outside of any module of its own.
    - `share`: its share of the multiplications and additions of a forward pass, 0 to 1, inner layers included.
    - `aliases`: other names from the model card.
    - `grid`: the positions of its output, or None.
    - `head`: whether no layer with weights follows.
    """

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
        """Whether its output is tokens with positions, of shape [tokens, channels]."""
        return self.has_grid and len(self.shape) == 2

    def called(self, name: str) -> bool:
        """Whether `name` means this layer: its own name, an alias, or the name of a module that is called several
        times."""
        return name == self.name or name in self.aliases or name == self.name.partition("@")[0]


@dataclass(frozen=True)
class Facts:
    """What a method may know of a model before it asks.

    - `layers`: in the order of computation.
    - `size`: height and width of the input in pixels.
    - `mean`: the mean colour of the model card, 0 to 1, or the mean of each channel.
    - `channels`: 3 for colours, 1 for a model of luminance, else the number of channels of a tensor. Images made for a
      model of luminance are grey.
    - `kind`: what the model is, a `needs.Kind`.
    - `classes`: the number of classes, 0 if there are none.
    - `any_size`: whether it takes images of other sizes.
    - `has_relu`: whether it has a ReLU.
    - `activation`: what turns its scores into probabilities.
    - `attended`: the last normalisation before a transformer's last attention. After it only the class token reaches
      the scores.
    - `pooled`: the layer whose mean over all positions is the scores, or the input of the linear layer that gives them.
    - `embeds`: whether the last layer with weights is linear.
    - `outputs`: the shapes of its outputs without the batch, by path.
    - `output`: the path of the main output.
    - `defaults`: the layers that the model card names, by purpose: `grad_cam`, `style`, `content`.
    - `tensor`: whether the channels of its images are not colours.
    """

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
        """The layer called `name`, or None. If a module is called several times and no call is named, the last one."""
        return next((layer for layer in reversed(self.layers) if layer.called(name)), None)

    @property
    def modules(self) -> tuple[Layer, ...]:
        """The layers that are modules, or all layers of a file that has lost its modules."""
        return tuple(layer for layer in self.layers if not layer.functional) or self.layers
