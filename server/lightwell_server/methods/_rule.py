"""What the two methods share that exchange ReLU's backward."""

from __future__ import annotations

from torch import Tensor

from lightwell_server.contract import GRAD, Ask, Asking, Explaining, Facts, Rule, Target
from lightwell_server.methods._math import Reduction, by_pixel


def no_relu(facts: Facts) -> str | None:
    """Why a method that exchanges ReLU's backward does not apply."""
    return None if facts.has_relu else "the model has no ReLU, so that its result would be the plain gradient"


def exchanged(image: Tensor, target: Target, rule: Rule) -> Asking:
    """The gradient [3, H, W] by a rule."""
    return (yield Ask(image, target.score, at=target.at, want=GRAD, rule=rule)).grad[0]


def by_rule(image: Tensor, target: Target, rule: Rule, magnitude: bool, channels: Reduction) -> Explaining:
    """The map of that gradient."""
    grad = yield from exchanged(image, target, rule)
    return by_pixel(grad.abs() if magnitude else grad, channels, signed=not magnitude, name="gradient")
