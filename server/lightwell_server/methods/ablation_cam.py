"""Ablation-CAM: a layer's channels, weighted by the share of the score that is lost without each. Desai and Ramaswamy
2020, doi:10.1109/WACV45572.2020.9093360."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from lightwell_server.contract import ACT, Ask, Edit, Explaining, Facts, GridLayer, ModelInput, Target, resolve_target
from lightwell_server.methods._cam import cam_layer, cam_reason, heat, no_grid_layer, placed, strongest

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def ablation_cam(
    image: ModelInput,
    target: Target,
    facts: Facts,
    *,
    layer: GridLayer,
    max_channels: Annotated[int, Ge(1)] | None = None,
) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`; not negative, in
    units of the layer's activations. `max_channels`, at least 1, limits the channels to those with the largest mean
    activation; None takes all. The lost score is divided by the score's magnitude. The paper divides by the score
    itself, which inverts the map of a negative score."""
    target, clean = yield from resolve_target(target, image, layer, ACT)
    activations = placed(clean.act, layer, facts)
    tried = strongest(activations, max_channels)

    def without(values: Tensor, index: Tensor) -> Tensor:
        channels = F.one_hot(tried[index], len(activations)).bool()
        return values.masked_fill(channels[:, None] if values.dim() == 3 else channels[..., None, None], 0)

    edit = Edit(layer, without, len(tried))
    left_over = (yield Ask(image, target.score, at=target.at, edit=edit)).score
    weights = (clean.score - left_over) / clean.score.abs().clamp(min=1e-12)
    return heat((weights.view(-1, 1, 1) * activations[tried]).sum(0))
