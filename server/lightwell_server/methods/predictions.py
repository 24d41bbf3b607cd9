"""Predictions: nothing but the most probable classes."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from lightwell_server.contract import Ask, Explaining, Explanation, Facts, ModelInput, Target


def applies(facts: Facts) -> str | None:
    """Why it does not apply to a model, or None. It needs scores of classes."""
    return None if facts.classes else "its output is no scores of classes"


def predictions(image: ModelInput, target: Target, *, k: Annotated[int, Interval(ge=1, le=1000)] = 5) -> Explaining:
    """The classes with the highest scores for `image` [1, 3, H, W], float32 or float64, in [0, 1], and the target's own
    score. `k` is how many, 1 to 1000."""
    yield Ask(image, target.score, at=target.at)
    return Explanation(predictions=k)
