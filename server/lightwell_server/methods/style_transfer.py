"""Style transfer: the features of one picture, the Gram matrices of others. Gatys et al. 2016, "Image Style Transfer
Using Convolutional Neural Networks", CVPR.

The Gram matrix of features F [C, M] is G = F F' / M, so that pictures of different sizes compare. Each layer's loss
is divided by the squared norm of what it aims at, so that a weight means the same on any network: 1 is as far away as
nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval, Len
from torch import Generator, Tensor

from lightwell_server.contract import (
    GRAD,
    OUT,
    SCORE,
    Ask,
    Asking,
    Facts,
    Frame,
    FullImage,
    LayerName,
    Needs,
    Synthesis,
    Synthesizing,
    Work,
)
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._math import (
    drawn,
    gram,
    mean_color,
    movement,
    relative,
    sized,
    style_layers,
    total_variation,
)
from lightwell_server.methods._optimizer import optimizer as make_optimizer

Weight = Annotated[float, Gt(0)]
needs = Needs(planned="steps")


STROKES = 4096
"""Pixels of a style's longer side, at most."""


@dataclass(frozen=True)
class Style:
    """A picture and its share among the styles."""

    image: FullImage
    weight: Weight = 1.0


@dataclass(frozen=True)
class LayerWeight:
    """A layer and its share in a loss."""

    layer: LayerName
    weight: Weight = 1.0


def applies(facts: Facts) -> str | None:
    """It needs colours, and layers at several resolutions."""
    if facts.tensor:
        return "styles are colour pictures, and the channels of the model's images are no colours"
    return (
        None if style_layers(facts) else "the model has no convolutional layers whose Gram matrices could carry a style"
    )


def defaults(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The card's layers, else five over the resolutions and the fourth of them for the content; a size that the model
    takes; a rate for the algorithm."""
    layers = style_layers(facts)
    return {
        "style_layers": [{"layer": name, "weight": 1.0} for name in facts.defaults.get("style", layers)],
        "content_layers": [
            {"layer": name, "weight": 1.0} for name in facts.defaults.get("content", layers[3:4] or layers[-1:])
        ],
        "size": 384 if facts.any_size else max(facts.size),
        "rate": 0.02 if given.get("optimizer") == "adam" else 1.0,
    }


def reason(facts: Facts) -> str:
    """Why these are the layers if none are named."""
    return "named by the card" if "style" in facts.defaults else "the first activation, or layer, of each resolution"


def style_transfer(
    image: FullImage,
    facts: Facts,
    rng: Generator,
    *,
    styles: Annotated[tuple[Style, ...], Len(1, 16)],
    size: Annotated[int, Interval(ge=32, le=2048)],
    content_weight: Annotated[float, Ge(0)] = 5.0,
    style_weight: Annotated[float, Ge(0)] = 100.0,
    tv_weight: Annotated[float, Ge(0)] = 30.0,
    content_layers: Annotated[tuple[LayerWeight, ...], Len(1, 32)],
    style_layers: Annotated[tuple[LayerWeight, ...], Len(1, 32)],
    style_scale: Annotated[float, Interval(ge=0.1, le=4)] = 1.0,
    start: Literal["content", "noise"] = "content",
    keep_colors: bool = False,
    steps: Annotated[int, Interval(ge=1, le=10_000)] = 300,
    optimizer: Literal["lbfgs", "adam"] = "lbfgs",
    rate: Annotated[float, Interval(gt=0, le=1000)],
) -> Synthesizing:
    """The content in the styles, its longer side `size` pixels; measures: objective, and content, style and tv
    without weights."""
    if not facts.any_size and size != max(facts.size):
        raise InvalidArgument.at("style_transfer.size", f"the model takes one size only; leave it at {max(facts.size)}")
    if size * style_scale > STROKES:
        most = f"{STROKES / size:.3g}"
        raise InvalidArgument.at("style_transfer.style_scale", f"is too large for size {size}; use at most {most}")
    _check(style_layers, facts)
    content = yield Work(sized, image, size, facts)
    features = yield from _features(content, content_layers)
    grams = yield from _grams(styles, style_layers, size, style_scale, facts)
    loss = Loss(features, grams, content_layers, style_layers, (content_weight, style_weight, tv_weight))
    x = content.clone() if start == "content" else drawn(mean_color(facts, content).expand_as(content), 0.1, facts, rng)
    algorithm = make_optimizer(optimizer, x, rate)
    objective = torch.zeros(1)
    for k in range(steps):
        answer = yield Ask(x.clone(), loss, at=loss.layers, want=SCORE | GRAD)
        smoothness, slope = total_variation(x)
        objective = answer.score + tv_weight * smoothness
        algorithm(objective, movement(answer.grad + tv_weight * slope, facts))
        x.clamp_(0, 1)
        yield Frame(k + 1, steps, float(objective), x.clone())
    result = with_colors_of(content, x) if keep_colors else x
    return Synthesis(result, measures={"objective": float(objective)})


def _check(style_layers: Sequence[LayerWeight], facts: Facts) -> None:
    """Raises InvalidArgument for a layer that has no places to take a Gram matrix over."""
    for i, part in enumerate(style_layers):
        layer = facts.layer(part.layer)
        if layer is not None and (layer.tokens or not layer.has_grid):
            raise InvalidArgument.at(
                f"style_transfer.style_layers[{i}].layer",
                f"{part.layer} has no height and width; its output is {list(layer.shape)}",
            )


@dataclass(frozen=True)
class Loss:
    """The weighted sum of content and style losses, as a score."""

    features: Sequence[Tensor]
    grams: Sequence[Tensor]
    content_layers: Sequence[LayerWeight]
    style_layers: Sequence[LayerWeight]
    weights: tuple[float, float, float]

    @property
    def layers(self) -> tuple[str, ...]:
        """Where it reads: the content layers, then the style layers."""
        return tuple(part.layer for part in (*self.content_layers, *self.style_layers))

    def __call__(self, values: tuple[Tensor, ...], index: Tensor) -> Tensor:
        """Values of one row at `layers` to [1]."""
        own, styled = values[: len(self.features)], values[len(self.features) :]
        content = _weighted(self.content_layers, own, self.features, lambda value: value)
        style = _weighted(self.style_layers, styled, self.grams, gram)
        return self.weights[0] * content + self.weights[1] * style


def _weighted(
    layers: Sequence[LayerWeight], values: Sequence[Tensor], aims: Sequence[Tensor], form: Callable[[Tensor], Tensor]
) -> Tensor:
    """The mean, by the layers' weights, of the relative distances of the values' forms from their aims: [1]."""
    total = sum(part.weight for part in layers)
    return torch.stack(
        [
            part.weight / total * relative(form(value), aim)
            for part, value, aim in zip(layers, values, aims, strict=True)
        ]
    ).sum(0)


def _features(picture: Tensor, layers: Sequence[LayerWeight]) -> Asking:
    return (yield Ask(picture, at=tuple(part.layer for part in layers), want=OUT)).out


def _grams(styles: Sequence[Style], layers: Sequence[LayerWeight], size: int, scale: float, facts: Facts) -> Asking:
    """The styles' Gram matrices, one a layer: their mean by the styles' weights."""
    total = sum(style.weight for style in styles)
    grams = [torch.zeros(1) for _ in layers]
    for style in styles:
        picture = yield Work(sized, style.image, max(32, round(size * scale)), facts)
        features = yield from _features(picture, layers)
        grams = [
            mean.to(value) + style.weight / total * gram(value) for mean, value in zip(grams, features, strict=True)
        ]
    return grams


def with_colors_of(content: Tensor, lightness: Tensor) -> Tensor:
    """The colours of one picture under the lightness of another, both [1, 3, H, W]."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=content.dtype, device=content.device).view(1, 3, 1, 1)
    change = ((lightness - content) * weights).sum(1, keepdim=True)
    return (content + change).clamp(0, 1)
