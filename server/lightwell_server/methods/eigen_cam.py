"""Eigen-CAM: a layer's activations along their first principal component. Muhammad and Yeasin 2020,
arXiv:2008.00299."""

from __future__ import annotations

import torch
from torch import Tensor

from lightwell_server.contract import OUT, Ask, Explaining, Facts, GridLayer, ModelInput, Work
from lightwell_server.methods._cam import cam_layer, cam_reason, heat, no_grid_layer, placed

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def eigen_cam(image: ModelInput, facts: Facts, *, layer: GridLayer) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`; not negative, in
    units of the layer's activations, the same for every target. All values are NaN if an activation is not finite."""
    activations = placed((yield Ask(image, at=layer, want=OUT)).out, layer, facts)
    return heat((yield Work(_component, activations)))


def _component(activations: Tensor) -> Tensor:
    """Each place's share of the first principal component [h, w] of activations [channels, h, w]; of its two signs the
    one that is high where the activations are strong. Of activations that are not finite there is none: all is NaN."""
    channels, height, width = activations.shape
    if not bool(activations.isfinite().all()):
        return activations.new_full((height, width), torch.nan)
    places = activations.reshape(channels, -1).T
    left, strengths, _ = torch.linalg.svd(places - places.mean(0), full_matrices=False)
    shares = left[:, 0] * strengths[0]
    # Their mean would say nothing behind a layer norm: it is zero everywhere.
    sign = -1 if (shares * places.abs().mean(1)).sum() < 0 else 1
    found: Tensor = (sign * shares).view(height, width)
    return found
