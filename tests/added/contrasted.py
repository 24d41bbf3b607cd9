"""The gradient of one model less that of another: a method with two models. Made for tests, 2026."""

from __future__ import annotations

from collections.abc import Mapping

from lightwell_server.contract import (
    GRAD,
    Ask,
    Explaining,
    Explanation,
    Facts,
    Heatmap,
    ModelInput,
    ModelName,
    Target,
)
from lightwell_server.errors import InvalidArgument


def contrasted(image: ModelInput, target: Target, models: Mapping[str, Facts], *, other: ModelName) -> Explaining:
    """A map [H, W] of `image` [1, 3, H, W], float32. Raises InvalidArgument if `other` takes another size."""
    if models["other"].size != tuple(image.shape[2:]):
        raise InvalidArgument.at("contrasted.other", f"{other} takes another size")
    own = (yield Ask(image, target.score, at=target.at, want=GRAD)).grad[0]
    its = (yield Ask(image, lambda scores, index: scores[:, 0], want=GRAD, model="other")).grad[0]
    return Explanation(Heatmap((own - its).sum(0), signed=True))
