"""Score-CAM: a layer's channels, weighted by the score of the image masked by each. Wang et al. 2019,
arXiv:1910.01279."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from lightwell_server.contract import ACT, Ask, Explaining, Facts, GridLayer, ModelInput, Rows, Target, resolve_target
from lightwell_server.methods._cam import cam_layer, cam_reason, enlarged, heat, no_grid_layer, placed, strongest
from lightwell_server.methods._math import mean_color

applies, defaults, reason = no_grid_layer, cam_layer, cam_reason


def score_cam(
    image: ModelInput,
    target: Target,
    facts: Facts,
    *,
    layer: GridLayer,
    max_channels: Annotated[int, Ge(1)] | None = None,
) -> Explaining:
    """A map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of `layer`; not negative, in
    units of the layer's activations. `max_channels`, at least 1, limits the channels to those with the largest mean
    activation; None takes all. Masked pixels have the mean colour of the model card. The paper subtracts the score of
    that colour alone, which cancels in the softmax of the weights."""
    target, clean = yield from resolve_target(target, image, layer, ACT)
    activations = placed(clean.act, layer, facts)
    tried = activations[strongest(activations, max_channels)]
    above = tried - tried.amin((1, 2), keepdim=True)  # a channel of one value is empty: nothing is left to round
    mean = mean_color(facts, image)

    def through(index: Tensor) -> Tensor:
        masks = enlarged(above[index], image)[:, None]
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        return mean + (masks - low) / (high - low).clamp(min=1e-12) * (image - mean)

    weights = (yield Ask(Rows(len(tried), through), target.score, at=target.at)).score.softmax(0)
    return heat((weights.view(-1, 1, 1) * tried).sum(0))
