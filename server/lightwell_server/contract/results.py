"""What methods return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass
class Heatmap:
    """A map.

    - `values`: [h, w], float32 or float64, on the map's own grid, in the method's unit.
    - `enlargement`: how the map is brought to the size of the image: "none", it has that size; "bilinear" between the
      centres of its cells; "windows", each value covers its window.
    - `window`, `stride`: side and distance of the windows in pixels, 0 for other maps.
    - `signed`: whether values below 0 have a meaning.
    """

    values: Tensor
    enlargement: Literal["none", "bilinear", "windows"] = "none"
    window: int = 0
    stride: int = 0
    signed: bool = False


@dataclass(frozen=True)
class View:
    """How a tensor is shown. `numbers` names the tensor that holds the numbers of maps. `kind` is one of:

    - "maps": [n, h, w], grey pictures.
    - "mask": [H, W] of 0 and 1, the object in the image.
    - "points": [n, 2], dots on the image, at rows and columns in pixels of the model's input.
    - "images": [n, 3, H, W] in [0, 1].
    - "vector": [n], numbers.
    - "table": [rows, columns], numbers.
    """

    kind: Literal["maps", "mask", "vector", "points", "images", "table"]
    numbers: str = ""


@dataclass
class Explanation:
    """What an Explain method returns.

    - `map`: the map, or None.
    - `tensors`: further results by name, each [...] of any shape, float32, float64, int32 or uint8.
    - `measures`: further numbers by name, in units of the method.
    - `predictions`: how many predictions come back if the request does not say.
    - `views`: how tensors are shown, by their names.
    """

    map: Heatmap | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    predictions: int | None = None
    views: dict[str, View] = field(default_factory=dict)


@dataclass
class Synthesis:
    """What a Synthesize method returns. All tensors are float32 or float64.

    - `image`: [1, 3, H, W] in [0, 1].
    - `picture`: its 8-bit form [1, 3, H, W], multiples of 1/255 in [0, 1], if the method rounds it itself.
    - `succeeded`: the verdict, None for methods without one.
    - `final`: the model's scores [1, classes] of the 8-bit form, if the method computed them.
    - `tensors`: further results by name, each [...] of any shape.
    - `pictures`: further pictures by name, [1, 3, H, W] each. Values outside [0, 1] are clamped when they are shown.
    - `measures`: further numbers by name, in units of the method.
    - `views`: how tensors are shown, by their names.
    """

    image: Tensor
    picture: Tensor | None = None
    succeeded: bool | None = None
    final: Tensor | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)


Result = Explanation | Synthesis
"""What a method returns."""
