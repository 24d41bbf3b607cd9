"""What methods return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass
class Heatmap:
    """A map [h, w] on its native grid. `enlargement` is none, bilinear or windows (then with window and stride in
    pixels)."""

    values: Tensor
    enlargement: Literal["none", "bilinear", "windows"] = "none"
    window: int = 0
    stride: int = 0
    signed: bool = False


@dataclass(frozen=True)
class View:
    """How a tensor is shown: `maps` [n, h, w] in grey, each with its number in the tensor called `numbers`; a `mask`
    [H, W] of zeros and ones, as the object in the image; `points` [n, 2], rows and columns in pixels of the model's
    input, as dots on the image; `images` [n, 3, H, W] in [0, 1]; a `vector` [n] and a `table` [rows, columns] as
    numbers."""

    kind: Literal["maps", "mask", "vector", "points", "images", "table"]
    numbers: str = ""


@dataclass
class Explanation:
    """What an Explain method returns; `views` tells how tensors are shown, `predictions` how many shall come back if
    the request does not say."""

    map: Heatmap | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    predictions: int | None = None
    views: dict[str, View] = field(default_factory=dict)


@dataclass
class Synthesis:
    """What a Synthesize method returns: the image [1, 3, H, W] as floats; `picture`, its 8-bit form where the method
    rounds it itself; `final`, the scores [1, classes] of that form where the method saw them; `pictures`, [1, 3, H,
    W] in [0, 1] each; `views`, how tensors are shown."""

    image: Tensor
    picture: Tensor | None = None
    succeeded: bool | None = None
    final: Tensor | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)


Result = Explanation | Synthesis
