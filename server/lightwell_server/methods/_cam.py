"""What class activation maps share: their layer, and what is read there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightwell_server.ask import ACT, GRAD, Ask, Asking, Explanation, Facts, Heatmap, Layer, as_grid
from lightwell_server.target import Target


def no_grid_layer(facts: Facts) -> str | None:
    """Why a method that needs a layer with height and width does not apply."""
    return None if _grid_layers(facts) else "the model has no layer with height and width"


def cam_layer(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The card's layer, else the last with height and width, of transformers the last norm before attention; of models
    whose output is a map itself the last with other channels than the output's."""
    layers = _grid_layers(facts)
    inside = [layer for layer in layers if facts.classes or layer.shape[0] != facts.outputs[facts.output][0]]
    last = (inside or layers)[-1]
    tokens = len(last.shape) == 2 and facts.attended is not None
    own = facts.attended if tokens else last.name
    return {"layer": (*facts.defaults.get("grad_cam", ()), own)[0]}


def _grid_layers(facts: Facts) -> list[Layer]:
    """The modules with more than one place, in the order of computation. A single row is none: of a file that has lost
    its modules it may as well be the channels of a pooled layer in another order."""
    return [layer for layer in facts.modules if layer.has_grid and min(layer.shape[-2:]) > 1]


def grid(values: Tensor) -> Tensor:
    """One row's activations or gradients at a layer with height and width, as [channels, h, w]."""
    laid_out = as_grid(values)
    assert laid_out is not None  # the layer was checked
    return laid_out[0]


def seen(image: Tensor, target: Target, layer: str) -> Asking:
    """Activations and gradients of a layer, [channels, h, w] each."""
    answer = yield Ask(image, target.score, at=target.at, wrt=layer, want=ACT | GRAD)
    return grid(answer.act), grid(answer.grad)


def heat(values: Tensor) -> Explanation:
    """What speaks for the target of a map [h, w] on a layer's grid."""
    return Explanation(Heatmap(values.relu(), "bilinear"))


def enlarged(values: Tensor, image: Tensor) -> Tensor:
    """Maps [n, h, w] at the size of an image [1, 3, H, W]: [n, H, W], bilinear between the centres of the cells."""
    return F.interpolate(values[:, None], size=image.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def strongest(activations: Tensor, count: int | None) -> Tensor:
    """The numbers of the `count` channels of activations [channels, h, w] with the largest mean, the largest first; of
    all, in their own order, if it is None."""
    if count is None:
        return torch.arange(len(activations), device=activations.device)
    return activations.mean((1, 2)).argsort(descending=True, stable=True)[:count]
