"""Guided Grad-CAM: guided backprop times the enlarged Grad-CAM. Selvaraju et al. 2016, arXiv:1610.02391."""

from __future__ import annotations

from lightwell_server.contract import Explaining, Facts, GridLayer, ModelInput, Target
from lightwell_server.methods._cam import cam_layer, cam_reason, enlarged, no_grid_layer
from lightwell_server.methods._math import Reduction, by_pixel
from lightwell_server.methods._rule import exchanged, no_relu
from lightwell_server.methods.grad_cam import grad_cam

defaults, reason = cam_layer, cam_reason


def applies(facts: Facts) -> str | None:
    """Why it does not apply to a model, or None. It needs a ReLU, and a layer with height and width."""
    return no_relu(facts) or no_grid_layer(facts)


def guided_grad_cam(
    image: ModelInput, target: Target, facts: Facts, *, layer: GridLayer, channels: Reduction = "max"
) -> Explaining:
    """A signed map [H, W] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, in squared score per unit of
    colour: the guided gradient times the Grad-CAM of `layer`, enlarged bilinearly. `channels` says how three colours
    become one value; "none" also returns `attribution` [3, H, W]."""
    coarse = (yield from grad_cam(image, target, facts, layer=layer)).map
    assert coarse is not None  # it is what Grad-CAM gives
    fine = yield from exchanged(image, target, "guided")
    return by_pixel(fine * enlarged(coarse.values[None], image), channels, signed=True)
