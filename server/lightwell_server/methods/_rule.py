"""What the methods share that replace the backward rule of ReLU."""

from __future__ import annotations

from torch import Tensor

from lightwell_server.contract import GRAD, Ask, Asking, Explaining, Facts, Rule, Target
from lightwell_server.methods._math import Reduction, by_pixel


def no_relu(facts: Facts) -> str | None:
    """Why a method that replaces the backward rule of ReLU does not apply to a model, or None."""
    return None if facts.has_relu else "the model has no ReLU, so that its result would be the plain gradient"


def exchanged(image: Tensor, target: Target, rule: Rule) -> Asking:
    """The gradient [3, H, W] of the target with respect to `image` [1, 3, H, W], both float32 or float64, with ReLUs
    that follow `rule`."""
    return (yield Ask(image, target.score, at=target.at, want=GRAD, rule=rule)).grad[0]


def by_rule(image: Tensor, target: Target, rule: Rule, magnitude: bool, channels: Reduction) -> Explaining:
    """A map [H, W] of that gradient for `image` [1, 3, H, W], both float32 or float64: signed, or with `magnitude` of
    its absolute values. With `channels` "none" also `gradient` [3, H, W]."""
    grad = yield from exchanged(image, target, rule)
    return by_pixel(grad.abs() if magnitude else grad, channels, signed=not magnitude, name="gradient")
