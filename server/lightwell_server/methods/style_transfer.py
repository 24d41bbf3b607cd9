"""Style transfer: the features of one picture, the Gram matrices of others. Gatys et al. 2016, "Image Style Transfer
Using Convolutional Neural Networks", doi:10.1109/CVPR.2016.265.

The Gram matrix of features F [C, M] is G = F F' / M, so that pictures of different sizes compare. The loss of each
layer is the squared distance from its aim, divided by the aim's squared norm: 1 is the distance of zero from the aim. A
weight then means the same on any network.
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
"""A weight, above 0."""
needs = Needs(planned="steps")


STROKES = 4096
"""Pixels of a style's longer side, at most."""


@dataclass(frozen=True)
class Style:
    """A picture `image` [1, 3, H, W], float32 or float64, in [0, 1]. `weight`, above 0, is divided by the sum over all
    styles."""

    image: FullImage
    weight: Weight = 1.0


@dataclass(frozen=True)
class LayerWeight:
    """The name of a `layer`. `weight`, above 0, is divided by the sum over all layers of the loss."""

    layer: LayerName
    weight: Weight = 1.0


def applies(facts: Facts) -> str | None:
    """Why it does not apply to a model, or None. It needs colours, and layers with height and width."""
    if facts.tensor:
        return "styles are colour pictures, and the channels of the model's images are no colours"
    if not style_layers(facts):
        return "the model has no convolutional layers whose Gram matrices could carry a style"
    if not facts.any_size and not 32 <= max(facts.size) <= 2048:
        return f"the model takes {max(facts.size)} pixels only; a style needs 32 to 2,048"
    return None


def defaults(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """`style_layers`: the card's, else up to five over the resolutions. `content_layers`: the card's, else the fourth
    of these, or the last. `size`: 384, or the model's own if it takes one size only. `rate`: 0.02 for Adam, 1 for
    L-BFGS."""
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
    """Why these are the default layers."""
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
    """The content of `image` [1, 3, H, W] in the style of other pictures: an image [1, 3, h, w] in [0, 1], both float32
    or float64. It minimises the weighted sum of content loss, style loss and total variation. The measure `objective`
    is that sum at the last step.

    - `styles`: the pictures, 1 to 16. Their Gram matrices are averaged by weight.
    - `size`: longer side of the result in pixels, 32 to 2048. If the model takes one size only, it is that of the
      model, and the middle of the picture is taken.
    - `content_weight`, `style_weight`, `tv_weight`: weights of the three terms, at least 0.
    - `content_layers`, `style_layers`: layers of the two losses, 1 to 32 each.
    - `style_scale`: longer side of the styles relative to `size`, 0.1 to 4, at least 32 pixels. Larger gives larger
      strokes.
    - `start`: the content, or noise of standard deviation 0.1 around the mean colour of the model card.
    - `keep_colors`: whether to keep the colours of the content and to take only the lightness.
    - `steps`: steps of the optimiser, 1 to 10,000.
    - `optimizer`: Adam or L-BFGS.
    - `rate`: step of Adam in units of pixel values, or factor of each L-BFGS step, above 0, at most 1000.

    Raises InvalidArgument if the model does not take `size`, if the styles are larger than `STROKES`, if a style layer
    has no height and width, or if a picture is too long and thin for the model.
    """
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
    """The weighted sum of content and style loss, as a score. `features` are the aims [1, C, h, w] of `content_layers`,
    `grams` the aims [1, C, C] of `style_layers`, all float32 or float64. `weights` are those of content, style and
    total variation, at least 0; the last is not used here."""

    features: Sequence[Tensor]
    grams: Sequence[Tensor]
    content_layers: Sequence[LayerWeight]
    style_layers: Sequence[LayerWeight]
    weights: tuple[float, float, float]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it reads: `content_layers`, then `style_layers`."""
        return tuple(part.layer for part in (*self.content_layers, *self.style_layers))

    def __call__(self, values: tuple[Tensor, ...], index: Tensor) -> Tensor:
        """The loss [1] of the `values` [1, C, h, w] of one row at `layers`, floating. `index` [1], int64, is not
        used."""
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
    """The picture `content` [1, 3, H, W] with the luma of the picture `lightness` [1, 3, H, W], floating, clamped to
    [0, 1]. Luma is 0.299 red + 0.587 green + 0.114 blue."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=content.dtype, device=content.device).view(1, 3, 1, 1)
    change = ((lightness - content) * weights).sum(1, keepdim=True)
    return (content + change).clamp(0, 1)
