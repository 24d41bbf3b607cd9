"""Integrated gradients: the mean gradient on the path from a baseline to the image, times their difference.
Sundararajan et al. 2017, arXiv:1703.01365."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from lightwell_server.contract import (
    GRAD,
    Ask,
    Explaining,
    Facts,
    FullImage,
    ModelInput,
    Needs,
    Rows,
    Target,
    resolve_target,
)
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._math import PART, Reduction, blurred, by_pixel, mean_color, parts

Quadrature = Literal["gauss_legendre", "midpoint", "trapezoid", "left", "right"]
"""A rule of quadrature over [0, 1]."""


needs = Needs(planned="steps")


def integrated_gradients(
    image: ModelInput,
    target: Target,
    facts: Facts,
    *,
    steps: Annotated[int, Interval(ge=1, le=1000)] = 50,
    baseline: Literal["black", "white", "mean", "blur"] = "black",
    baseline_image: FullImage | None = None,
    quadrature: Quadrature = "gauss_legendre",
    channels: Reduction = "sum",
) -> Explaining:
    """A signed map [H, W] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, in units of the score. Over
    pixels and colours, attributions sum to the score of the image minus the measure `baseline_score`. The measure
    `completeness_gap` is the error of that sum, which falls with more steps. Raises InvalidArgument for a trapezoid
    with a single step.

    - `steps`: points of the path, 1 to 1000.
    - `baseline`: where the path starts. "mean" is the mean colour of the model card. "blur" is the image under a
      Gaussian with a sigma of a tenth of its shorter side.
    - `baseline_image`: another start [1, 3, h, w], float32 or float64, in [0, 1]. It is resized to the image without a
      crop.
    - `quadrature`: how the points are placed and weighted.
    - `channels`: how three colours become one value. "none" also returns `attribution` [3, H, W].
    """
    if quadrature == "trapezoid" and steps == 1:
        raise InvalidArgument.at("integrated_gradients.steps", "a trapezoid has two ends; take 2 at least")
    target, clean = yield from resolve_target(target, image)
    start = _start(image, facts, baseline, baseline_image)
    below = (yield Ask(start, target.score, at=target.at)).score
    way, (places, weights) = image - start, (part.to(image) for part in _rule(quadrature, steps))

    def along(numbers: Tensor) -> Tensor:
        return start + places[numbers].view(-1, 1, 1, 1) * way

    mean = torch.zeros_like(image[0])
    for rows, shares in zip(parts(Rows(steps, along)), weights.split(PART), strict=True):
        grads = (yield Ask(rows, target.score, at=target.at, want=GRAD)).grad
        mean += torch.tensordot(shares, grads, 1)
    attribution = way[0] * mean
    gap = float(attribution.sum() - (clean.score - below))
    measures = {"completeness_gap": gap, "baseline_score": float(below)}
    return replace(by_pixel(attribution, channels, signed=True), measures=measures)


def _start(image: Tensor, facts: Facts, baseline: str, given: Tensor | None) -> Tensor:
    """Where the way begins: [1, 3, H, W]."""
    if given is not None:
        sized = F.interpolate(given, size=image.shape[2:], mode="bilinear", antialias=True, align_corners=False)
        return sized.to(image).clamp(0, 1)
    if baseline == "blur":
        return blurred(image, min(image.shape[2:]) / 10)
    if baseline == "mean":
        return mean_color(facts, image).expand_as(image)
    return torch.full_like(image, 1.0 if baseline == "white" else 0.0)


def _rule(quadrature: Quadrature, steps: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and weights that sum to one."""
    if quadrature == "gauss_legendre":
        roots, shares = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((1 + roots) / 2), torch.from_numpy(shares / 2)
    if quadrature == "trapezoid":
        weights = torch.full((steps,), 1 / (steps - 1), dtype=torch.double)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps, dtype=torch.double), weights
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[quadrature]
    return (torch.arange(steps).double() + offset) / steps, torch.full((steps,), 1 / steps, dtype=torch.double)
