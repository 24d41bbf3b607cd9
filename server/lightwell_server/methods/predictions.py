"""Predictions: nothing but the most probable classes."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from lightwell_server.contract import Ask, Explaining, Explanation, Facts, ModelInput, Target


def applies(facts: Facts) -> str | None:
    """Only classifiers have classes."""
    return None if facts.classes else "its output is no scores of classes"


def predictions(image: ModelInput, target: Target, *, k: Annotated[int, Interval(ge=1, le=1000)] = 5) -> Explaining:
    """The `k` classes with the highest scores, and the target's own score."""
    yield Ask(image, target.score, at=target.at)
    return Explanation(predictions=k)
