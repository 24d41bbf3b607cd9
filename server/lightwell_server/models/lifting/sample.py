"""What a model is recorded and proved on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lightwell_server.models.lifting.outputs import Kind

Argument = bool | int | float | str | list[int] | list[float]
"""The value of an argument that is no tensor."""
LUMINANCE = (0.299, 0.587, 0.114)
"""What the colours contribute to grey. ITU-R BT.601."""


@dataclass(frozen=True)
class InputSpec:
    """Another input of a model: its shape without the batch and its element type."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Sample:
    """The rows that a model takes: images of `size` with their normalisation (`channels` is 1 for a model of
    luminance), or codes of length `code`; its other inputs; values of `arguments` that are no tensors; and which of its
    outputs is wanted, read before a final activation or behind it, an image's values lying in `range`. An output that
    is not `scored` is no scores of classes and may have any shape; a single score is that of a yes if it is `binary`.
    The file takes images with their channels in front or, by its `layout`, behind, red or, by their `order`, blue the
    first, `integers` of 8 bits or floating numbers, in a `batch` or one by itself (None: as it declares); with `tensor`
    its channels are no colours, and rows have them all. `mean` and `std` are in the order of the rows' channels."""

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
        """Whether the file takes the luminance of colours."""
        return self.channels == 1 and not self.tensor

    @property
    def formed(self) -> bool:
        """Whether the file takes images in another form than rows are."""
        return self.layout == "nhwc" or self.order == "bgr" or self.integers

    def rows(
        self, count: int, size: tuple[int, int] | None = None, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        """Random inputs: images in [0, 1] (or normal codes), then the other inputs. Each row has a contrast and a
        brightness of its own, so that rows which see each other's extremes are noticed. Where the file takes integers
        of 8 bits they are such."""
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
        """Random inputs, normalised."""
        rows, *others = self.rows(count, dtype=dtype)
        return [self.normalise(rows), *others]

    def normalise(self, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Rows with the file's luminance, mean and standard deviation; the constants are as precise as `dtype`, that of
        the rows if it is not given."""
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
