"""Saliency: |d score / d pixel|, one value over the colours. Simonyan et al. 2013, arXiv:1312.6034."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from lightwell_server.ask import GRAD, Ask, Explaining, Explanation, Facts, Fitted, Heatmap
from lightwell_server.target import Target


def saliency(
    image: Fitted,
    target: Target,
    facts: Facts,
    rng: Generator,
    *,
    magnitude: bool = True,
    channels: Literal["max", "sum", "none"] = "max",
) -> Explaining:
    """A map [H, W] in score per unit of colour; with channels "none" also `gradient` [3, H, W]."""
    grad: Tensor = (yield Ask(image, target.score, at=target.at, want=GRAD)).grad[0]
    if magnitude:
        grad = grad.abs()
    values = grad.sum(0) if channels == "sum" else largest(grad)
    tensors = {"gradient": grad} if channels == "none" else {}
    return Explanation(Heatmap(values, signed=not magnitude), tensors)


def largest(grad: Tensor) -> Tensor:
    """Of the colours [3, H, W] the value of the largest magnitude: [H, W]."""
    high, low = grad.amax(0), grad.amin(0)
    return torch.where(high >= -low, high, low)
