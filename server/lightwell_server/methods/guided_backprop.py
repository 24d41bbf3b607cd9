"""Guided backprop: the gradient with ReLUs that pass only positive gradients backwards, and only where their input is
positive. Springenberg et al. 2014, arXiv:1412.6806."""

from __future__ import annotations

from lightwell_server.contract import Explaining, ModelInput, Target
from lightwell_server.methods._math import Reduction
from lightwell_server.methods._rule import by_rule, no_relu

applies = no_relu


def guided_backprop(
    image: ModelInput,
    target: Target,
    *,
    magnitude: bool = False,
    channels: Reduction = "max",
) -> Explaining:
    """A map [H, W] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, in score per unit of colour; signed, or
    with `magnitude` of absolute values. `channels` says how three colours become one value; "none" also returns
    `gradient` [3, H, W]."""
    return by_rule(image, target, "guided", magnitude, channels)
