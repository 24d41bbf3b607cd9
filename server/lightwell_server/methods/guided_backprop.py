"""Guided backprop: the gradient where no ReLU lets pass what is negative in it, or what it cut off itself. Springenberg
et al. 2014, arXiv:1412.6806."""

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
    """A map [H, W] in score per unit of colour; with channels "none" also `gradient` [3, H, W]."""
    return by_rule(image, target, "guided", magnitude, channels)
