"""Grad-CAM++: a layer's channels, weighted by their positive gradients, each position by how much it stands out.
Chattopadhyay et al. 2017, arXiv:1710.11063."""

from __future__ import annotations

import torch

from lightwell_server.contract import Explaining, Facts, GridLayer, ModelInput, Target
from lightwell_server.methods._cam import activations_and_gradients, cam_layer, cam_reason, heat, no_grid_layer

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def grad_cam_plus_plus(image: ModelInput, target: Target, facts: Facts, *, layer: GridLayer) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`; not negative, in
    units of the score. The paper differentiates exp(score), whose derivatives are powers of the gradient times
    exp(score). That common factor is left out, so that no epsilon is needed. A place counts nothing where its alpha has
    no value; that can be where a channel's activations are negative."""
    activations, grads = yield from activations_and_gradients(image, target, layer, facts)
    totals = activations.sum((1, 2), keepdim=True)
    divisors = 2 + totals * grads
    weights = torch.where((grads > 0) & (divisors != 0), grads / divisors, 0).sum((1, 2), keepdim=True)
    return heat((weights * activations).sum(0))
