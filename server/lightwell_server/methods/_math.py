"""Computations that several methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lightwell_server.contract import Explanation, Facts, Heatmap, Layer, Rows
from lightwell_server.errors import InvalidArgument

MAX_PIXELS = 50_000_000
"""The most pixels of the picture from which `sized` cuts its result."""
ACTIVATIONS = {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SiLU", "GELU", "Hardswish", "Mish"}
"""Types of activation layers, as `Layer.type` has them."""


def mean_color(facts: Facts, like: Tensor) -> Tensor:
    """The card's mean colour, [1, 3, 1, 1], in the dtype of `like` [n, 3, H, W], floating: what papers call zero. If
    the channels are not colours, the mean of each."""
    return torch.tensor(facts.mean, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """The images `image` [n, 3, H, W], floating, under a Gaussian whose standard deviation is `sigma` pixels, above 0.
    Edges are mirrored."""
    radius = min(max(1, math.ceil(3 * sigma)), min(image.shape[-2:]) - 1)
    down, across = (_smoothing(side, sigma, radius).to(image) for side in image.shape[-2:])
    return down @ image @ across.T


def _smoothing(side: int, sigma: float, radius: int) -> Tensor:
    """The matrix [side, side] of a Gaussian along one dimension, cut off at `radius`: a product costs little even
    where the Gaussian is as wide as the image."""
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-(offsets.double() ** 2) / (2 * sigma**2))
    places = (torch.arange(side)[:, None] + offsets).abs()
    mirrored = (side - 1) - (side - 1 - places).abs()
    empty = torch.zeros(side, side, dtype=torch.double)
    return empty.scatter_add_(1, mirrored, (weights / weights.sum()).expand(side, -1))


def sized(image: Tensor, longer: int, facts: Facts) -> Tensor:
    """A picture `image` [1, 3, H, W], floating, resized in its proportions so that the longer side has `longer` pixels,
    at least 1: [1, 3, h, w] in [0, 1]. If the model takes one size only, `longer` is ignored: the picture is resized to
    cover that size, and its middle is cut out. Raises InvalidArgument if that takes more than `MAX_PIXELS` pixels."""
    height, width = image.shape[-2:]
    if facts.any_size:
        scale = longer / max(height, width)
        return _interpolated(image, max(1, round(height * scale)), max(1, round(width * scale)))
    scale = max(facts.size[0] / height, facts.size[1] / width)
    if height * width * scale**2 > MAX_PIXELS:
        raise InvalidArgument(f"a picture of {height} x {width} is too long and thin; crop it first")
    covering = _interpolated(image, math.ceil(height * scale - 1e-6), math.ceil(width * scale - 1e-6))
    top, left = (covering.shape[-2] - facts.size[0]) // 2, (covering.shape[-1] - facts.size[1]) // 2
    return covering[..., top : top + facts.size[0], left : left + facts.size[1]].contiguous()


def _interpolated(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image, size=(height, width), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def uniform(like: Tensor, facts: Facts, rng: Generator) -> Tensor:
    """Uniform random numbers in [0, 1), of the shape and dtype of `like` [n, 3, H, W], floating. They are the same for
    all colours if the model takes luminance."""
    return _repeated(torch.rand(_channelled(like, facts), generator=rng), like)


def normal(like: Tensor, facts: Facts, rng: Generator) -> Tensor:
    """Standard normal random numbers, of the shape and dtype of `like` [n, 3, H, W], floating. They are the same for
    all colours if the model takes luminance."""
    return _repeated(torch.randn(_channelled(like, facts), generator=rng), like)


def _channelled(like: Tensor, facts: Facts) -> tuple[int, ...]:
    return len(like), facts.channels, *like.shape[2:]


def _repeated(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like).expand_as(like)


def movement(grad: Tensor, facts: Facts) -> Tensor:
    """The part of a gradient `grad` [n, 3, H, W], floating, that a picture may follow. For a model of luminance it is
    the mean over colours, so that the step changes no colour, which such a model cannot see. This is the orthogonal
    projection onto grey steps."""
    return grad.mean(1, keepdim=True).expand_as(grad) if facts.channels == 1 else grad


def drawn(mean: Tensor, deviation: float, facts: Facts, rng: Generator) -> Tensor:
    """Pictures `mean` [n, 3, H, W], floating, plus normal noise of the standard deviation `deviation`, at least 0, in
    units of pixel values. The result is clamped to [0, 1]."""
    return (mean + deviation * normal(mean, facts, rng)).clamp(0, 1)


def gram(features: Tensor) -> Tensor:
    """Gram matrices [n, C, C], F F' / (H W), of `features` [n, C, H, W], floating."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def relative(value: Tensor, aim: Tensor) -> Tensor:
    """The squared distance [n] of each row of `value` [n, ...] from `aim` [n, ...], or from the single row [1, ...] of
    it, as a share of the aim's squared norm. All are floating."""
    return (value - aim).flatten(1).square().sum(1) / aim.flatten(1).square().sum(1).clamp(min=1e-12)


def total_variation(x: Tensor) -> tuple[Tensor, Tensor]:
    """The total variation [1] of a picture `x` [1, 3, H, W], floating, and its gradient [1, 3, H, W]. It is the sum of
    the squared differences of vertical and horizontal neighbours, divided by the number of values."""
    across, down = x.diff(dim=3), x.diff(dim=2)
    slope = F.pad(across, (1, 0)) - F.pad(across, (0, 1)) + F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
    value = (across.square().sum() + down.square().sum()) / x.numel()
    return value.view(1), 2 * slope / x.numel()


def style_layers(facts: Facts) -> tuple[str, ...]:
    """The names of up to five convolutional layers at different resolutions, in the order of computation. Of each
    resolution it takes the first activation, else the first layer. With fewer than five resolutions it adds the middle
    layer of those with more than two candidates, the last resolution first."""
    stages: dict[int, list[Layer]] = {}
    for layer in facts.modules:
        if layer.has_grid and not layer.tokens and min(layer.shape[1:]) > 1:
            stages.setdefault(layer.shape[1], []).append(layer)
    lists = [[la for la in stage if la.type in ACTIVATIONS] or stage[:1] for stage in stages.values()]
    chosen = [stage[0].name for stage in lists][:5]
    spare = [stage[len(stage) // 2].name for stage in reversed(lists) if len(stage) > 2]
    chosen += spare[: 5 - len(chosen)]
    order = {layer.name: i for i, layer in enumerate(facts.layers)}
    return tuple(sorted(chosen, key=order.__getitem__))


Reduction = Literal["max", "sum", "none"]
"""How three colours become one value: "max" is the value of the largest magnitude, "sum" their sum. "none" is as "max",
and also returns all three."""


def by_pixel(values: Tensor, channels: Reduction, signed: bool, name: str = "attribution") -> Explanation:
    """A map [H, W] of `values` [3, H, W], floating. With `channels` "none" it comes with these values as a tensor
    called `name`."""
    tensors = {name: values} if channels == "none" else {}
    return Explanation(Heatmap(values.sum(0) if channels == "sum" else _largest(values), signed=signed), tensors)


def _largest(values: Tensor) -> Tensor:
    """Of the colours [3, H, W] the value of the largest magnitude: [H, W]."""
    high, low = values.amax(0), values.amin(0)
    return torch.where(high >= -low, high, low)


PART = 64
"""Rows of an Ask whose gradients are summed. It bounds the memory that gradients of many rows take."""


def parts(rows: Rows) -> Iterator[Rows]:
    """The same rows in consecutive parts of at most `PART`."""
    for start in range(0, rows.count, PART):
        yield Rows(min(PART, rows.count - start), partial(_shifted, rows.make, start))


def _shifted(make: Callable[[Tensor], Tensor], start: int, index: Tensor) -> Tensor:
    return make(start + index)
