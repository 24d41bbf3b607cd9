"""Input times gradient: what each pixel adds to the score, to first order. Shrikumar et al. 2016, arXiv:1605.01713."""

from __future__ import annotations

from typing import Literal

from lightwell_server.contract import GRAD, Ask, Explaining, Facts, ModelInput, Target
from lightwell_server.methods._math import Reduction, by_pixel, mean_color


def input_x_gradient(
    image: ModelInput,
    target: Target,
    facts: Facts,
    *,
    scale: Literal["model", "pixels"] = "model",
    channels: Reduction = "sum",
) -> Explaining:
    """A map [H, W] in units of the score; with channels "none" also `attribution` [3, H, W]. In the model's scale the
    deviation that pixels are divided by cancels out against the gradient's."""
    grad = (yield Ask(image, target.score, at=target.at, want=GRAD)).grad
    values = image - mean_color(facts, image) if scale == "model" else image
    return by_pixel((values * grad)[0], channels, signed=True)
