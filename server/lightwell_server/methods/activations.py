"""Activations: the feature maps of a layer."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge

from lightwell_server.contract import OUT, Ask, Explaining, Explanation, Facts, GridLayer, ModelInput, View
from lightwell_server.methods._cam import cam_layer, cam_reason, no_grid_layer, placed, strongest

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def activations(
    image: ModelInput,
    facts: Facts,
    *,
    layer: GridLayer,
    max_channels: Annotated[int, Ge(1)] | None = None,
) -> Explaining:
    """The tensors `activations` [channels, h, w], float32 or float64, the feature maps of `layer` for `image`
    [1, 3, H, W] in [0, 1], and `channels` [channels], int32, their numbers in the layer. `max_channels`, at least 1,
    limits them to those with the largest mean activation, the largest first; None takes all. Tokens are laid out as a
    grid, without those that have no position."""
    maps = placed((yield Ask(image, at=layer, want=OUT)).out, layer, facts)
    shown = strongest(maps, max_channels)
    return Explanation(
        tensors={"activations": maps[shown], "channels": shown.to(torch.int32)},
        views={"activations": View("maps", numbers="channels")},
    )
