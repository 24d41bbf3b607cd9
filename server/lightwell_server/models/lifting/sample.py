"""The random sample that a model is recorded and verified on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lightwell_server.models.lifting.outputs import Kind

Argument = bool | int | float | str | list[int] | list[float]
"""The value of an argument that is not a tensor."""
LUMINANCE = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the luminance. ITU-R BT.601."""


@dataclass(frozen=True)
class InputSpec:
    """Another input of a model: its shape without the batch and its element type."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Sample:
    """The inputs that a model takes, and the output that is wanted.

    - `size`, `mean`, `std`: images' size, and their normalisation in the order of the rows' channels.
    - `channels`: 1 for a model of luminance. With `tensor` they are not colours, and rows have them all.
    - `code`: the length of codes.
    - `inputs`, `arguments`: the other inputs, and values of arguments that are not tensors.
    - `output`, `before_activation`: the output's path, and whether it is read before a final activation.
    - `range`: the range of an image's values in the output.
    - `scored`: whether the output is scores of classes; otherwise it may have any shape.
    - `binary`: whether a single score is that of the positive class.
    - `layout`, `order`: the order of dimensions and of colours in the file's images.
    - `integers`: whether they are uint8.
    - `batch`: whether they are in a batch; None: as the file declares."""

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    before_activation: bool = True
    channels: int = 3
    kind: Kind = "classifier"
    code: int = 0
    output: str = ""
    range: tuple[float, float] = (0.0, 1.0)
    scored: bool = True
    binary: bool = False
    layout: Literal["nchw", "nhwc"] = "nchw"
    order: Literal["rgb", "bgr"] = "rgb"
    integers: bool = False
    batch: bool | None = None
    tensor: bool = False

    @property
    def grey(self) -> bool:
        """Whether the file takes the luminance of a colour image."""
        return self.channels == 1 and not self.tensor

    @property
    def formed(self) -> bool:
        """Whether the file takes images in another form than that of rows."""
        return self.layout == "nhwc" or self.order == "bgr" or self.integers

    def rows(
        self, count: int, size: tuple[int, int] | None = None, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        """Random inputs: images [count, channels, height, width] in [0, 1], or normal codes [count, code], then the
        other inputs. Floating ones have the given dtype. Each row has its own contrast and brightness, which shows
        whether rows influence each other by their extremes. If the file takes uint8, the values are multiples of
        1/255."""
        rng = torch.Generator().manual_seed(seed)
        if self.kind == "generator":
            rows = torch.randn((count, self.code), generator=rng) * (0.5 + torch.rand((count, 1), generator=rng))
        else:
            contrast = 0.3 + 0.6 * torch.rand((count, 1, 1, 1), generator=rng)
            brightness = (1 - contrast) * torch.rand((count, 1, 1, 1), generator=rng)
            channels = self.channels if self.tensor else 3
            rows = torch.rand((count, channels, *(size or self.size)), generator=rng) * contrast + brightness
            rows = (rows.double() * 255).round() / 255 if self.integers else rows
        others = (_random((count, *spec.shape), spec.dtype, rng) for spec in self.inputs.values())
        return [value.to(dtype) if value.is_floating_point() else value for value in (rows, *others)]

    def example(self, count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """The same, normalised."""
        rows, *others = self.rows(count, dtype=dtype)
        return [self.normalise(rows), *others]

    def normalise(self, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Rows [n, channels, height, width], floating, with the file's luminance, mean and standard deviation. The
        constants are rounded to `dtype`; unset, the rows'."""
        if self.kind == "generator":
            return rows.clone()
        if self.grey:
            rows = (rows * _constant(LUMINANCE, rows, dtype)).sum(1, keepdim=True)
        return (rows - _constant(self.mean, rows, dtype)) / _constant(self.std, rows, dtype)


def _constant(values: tuple[float, ...], rows: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.tensor(values, dtype=dtype or rows.dtype).to(rows).view(1, -1, 1, 1)


def _random(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.rand(shape, generator=rng, dtype=dtype)
    return torch.randint(0, 2, shape, generator=rng).to(dtype)
