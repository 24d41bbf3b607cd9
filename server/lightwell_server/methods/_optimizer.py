"""Optimisers that follow gradients which are computed elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

HISTORY = 10
"""Steps that L-BFGS remembers. Each takes the memory of two pictures."""


def optimizer(name: Literal["lbfgs", "adam"], x: Tensor, rate: float) -> Callable[[Tensor, Tensor], None]:
    """Returns `follow(objective, gradient)`, which changes `x` [1, 3, H, W], floating, in place so that the objective
    falls. The objective is [1], the gradient has the shape of `x`, both floating. `rate`, above 0, is the step of Adam
    in units of pixel values, and the factor of each step of L-BFGS.

    Adam: Kingma and Ba 2014, arXiv:1412.6980. L-BFGS: Liu and Nocedal 1989, doi:10.1007/BF01589116. Objective and
    gradient are multiplied by the number of values of `x`, because thresholds of L-BFGS suit objectives of that order.
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
