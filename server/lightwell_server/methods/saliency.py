"""Saliency: |d score / d pixel|, one value over the colours. Simonyan et al. 2013, arXiv:1312.6034."""

from __future__ import annotations

from typing import Literal

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
    values = grad.sum(0) if channels == "sum" else grad.gather(0, grad.abs().argmax(0, keepdim=True))[0]
    tensors = {"gradient": grad} if channels == "none" else {}
    return Explanation(Heatmap(values, signed=not magnitude), tensors)
