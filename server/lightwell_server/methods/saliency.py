"""Saliency: |d score / d pixel|, one value over the colours. Simonyan et al. 2013, arXiv:1312.6034."""

from __future__ import annotations

from lightwell_server.contract import GRAD, Ask, Explaining, ModelInput, Target
from lightwell_server.methods._math import Reduction, by_pixel


def saliency(
    image: ModelInput,
    target: Target,
    *,
    magnitude: bool = True,
    channels: Reduction = "max",
) -> Explaining:
    """A map [H, W] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, in score per unit of colour; signed, or
    with `magnitude` of absolute values. `channels` says how three colours become one value; "none" also returns
    `gradient` [3, H, W]."""
    grad = (yield Ask(image, target.score, at=target.at, want=GRAD)).grad[0]
    return by_pixel(grad.abs() if magnitude else grad, channels, signed=not magnitude, name="gradient")
