"""Algorithms that follow gradients which come from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

HISTORY = 10
"""Steps that L-BFGS remembers; each costs two pictures of memory."""


def optimizer(name: Literal["lbfgs", "adam"], x: Tensor, rate: float) -> Callable[[Tensor, Tensor], None]:
    """Returns `follow(objective, gradient)`, which changes `x` in place so that the objective falls.

    L-BFGS has thresholds that suit objectives of the order of the number of pixels: objective and gradient are scaled
    to that.
    """
    x.requires_grad_(False)
    if name == "adam":
        algorithm: torch.optim.Optimizer = torch.optim.Adam([x], lr=rate)
    else:
        algorithm = torch.optim.LBFGS(
            [x], lr=rate, max_iter=1, history_size=HISTORY, tolerance_grad=0, tolerance_change=0
        )

    def follow(objective: Tensor, gradient: Tensor) -> None:
        x.grad = gradient.contiguous() * x.numel()
        known = float(objective) * x.numel()
        algorithm.step(lambda: known)

    return follow
