"""XGrad-CAM: a layer's channels, weighted by their gradients where they are active. Fu et al. 2020,
arXiv:2008.02312."""

from __future__ import annotations

import torch

from lightwell_server.contract import Explaining, Facts, GridLayer, ModelInput, Target
from lightwell_server.methods._cam import activations_and_gradients, cam_layer, cam_reason, heat, no_grid_layer

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def x_grad_cam(image: ModelInput, target: Target, facts: Facts, *, layer: GridLayer) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`, in units of the
    score. Negative values are set to 0. A channel whose activations sum to 0 has the weight 0."""
    activations, grads = yield from activations_and_gradients(image, target, layer, facts)
    totals = activations.sum((1, 2), keepdim=True)
    weights = (grads * activations).sum((1, 2), keepdim=True) / totals
    return heat((torch.where(totals == 0, 0, weights) * activations).sum(0))
