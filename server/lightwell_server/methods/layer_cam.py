"""LayerCAM: a layer's activations times their positive gradients at each position. Jiang et al. 2021,
doi:10.1109/TIP.2021.3089943."""

from __future__ import annotations

from lightwell_server.contract import Explaining, Facts, GridLayer, ModelInput, Target
from lightwell_server.methods._cam import activations_and_gradients, cam_layer, cam_reason, heat, no_grid_layer

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def layer_cam(image: ModelInput, target: Target, facts: Facts, *, layer: GridLayer) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`, in units of the
    score. Negative values are set to 0."""
    activations, grads = yield from activations_and_gradients(image, target, layer, facts)
    return heat((grads.relu() * activations).sum(0))
