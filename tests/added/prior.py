"""The gradient of a class at a picture of one value: a method without an image. Made for tests, 2026."""

from __future__ import annotations

import torch

from lightwell_server.contract import GRAD, Ask, Explaining, Explanation, Facts, Heatmap, Share, Target


def prior(target: Target, facts: Facts, *, value: Share = 0.5) -> Explaining:
    """A map [H, W], float32, of the model's input size; `value` is that of all pixels, 0 to 1."""
    rows = torch.full((1, 3, *facts.size), value)
    grad = (yield Ask(rows, target.score, at=target.at, want=GRAD)).grad[0]
    return Explanation(Heatmap(grad.abs().amax(0)))
