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
    """A signed map [H, W] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, in units of the score. With
    `scale` "model" the gradient is multiplied by the distance from the mean colour of the model card, with "pixels" by
    the distance from black. A standard deviation by which the model divides its input cancels. `channels` says how
    three colours become one value; "none" also returns `attribution` [3, H, W]."""
    grad = (yield Ask(image, target.score, at=target.at, want=GRAD)).grad
    values = image - mean_color(facts, image) if scale == "model" else image
    return by_pixel((values * grad)[0], channels, signed=True)
