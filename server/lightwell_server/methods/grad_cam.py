"""Grad-CAM: a layer's channels, weighted by their mean gradient. Selvaraju et al. 2016, arXiv:1610.02391."""

from __future__ import annotations

from lightwell_server.contract import Explaining, Explanation, Facts, GridLayer, Heatmap, ModelInput, Target
from lightwell_server.methods._cam import activations_and_gradients, cam_layer, cam_reason, no_grid_layer

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def grad_cam(image: ModelInput, target: Target, facts: Facts, *, layer: GridLayer, relu: bool = True) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`, in units of the
    score. With `relu` negative values are 0, else the map is signed. The grid of tokens is that of their patches,
    without tokens that have no position."""
    activations, grads = yield from activations_and_gradients(image, target, layer, facts)
    values = (grads.mean((1, 2), keepdim=True) * activations).sum(0)
    return Explanation(Heatmap(values.relu() if relu else values, "bilinear", signed=not relu))
