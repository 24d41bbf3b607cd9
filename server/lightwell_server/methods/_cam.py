"""What class activation maps share: their layer, and its activations and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightwell_server.contract import ACT, GRAD, Ask, Asking, Explanation, Facts, Heatmap, Layer, Target


def no_grid_layer(facts: Facts) -> str | None:
    """Why a method that needs a layer with height and width does not apply to a model, or None."""
    return None if _grid_layers(facts) else "the model has no layer with height and width"


def cam_layer(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The default `layer`: the card's, else one chosen from the model's."""
    return {"layer": _chosen(facts)[0]}


def cam_reason(facts: Facts) -> str:
    """Why this is the default layer."""
    return _chosen(facts)[1]


def _chosen(facts: Facts) -> tuple[str, str]:
    """The card's layer, else the last with height and width, of transformers the last normalisation before attention;
    of models whose output is no scores of classes the last before their heads, which have other channels than the
    output. And why."""
    if "grad_cam" in facts.defaults:
        return facts.defaults["grad_cam"][0], "named by the card"
    layers = _grid_layers(facts)
    channels = facts.outputs[facts.output][0]
    inside = [la for la in layers if not facts.classes and not la.head and (la.tokens or la.shape[0] != channels)]
    last = (inside or layers)[-1]
    if last.tokens and facts.attended is not None:
        return facts.attended, "the last normalisation before the last attention"
    return last.name, f"the last layer with height and width{' before the heads' if inside else ''}"


def _grid_layers(facts: Facts) -> list[Layer]:
    """The modules with more than one row and column, in the order of computation."""
    return [la for la in facts.modules if la.grid is not None and min(la.grid.rows, la.grid.columns) > 1]


def placed(values: Tensor, layer: str, facts: Facts) -> Tensor:
    """The activations or gradients [channels, h, w] at `layer`, which has height and width, from `values`, floating:
    [1, channels, h, w] or tokens [1, tokens, channels]."""
    found = facts.layer(layer)
    assert found is not None and found.grid is not None  # the layer was checked
    return found.grid.laid_out(values)[0]


def activations_and_gradients(image: Tensor, target: Target, layer: str, facts: Facts) -> Asking:
    """The activations of a layer and the gradients of the target with respect to them, [channels, h, w] each, for
    `image` [1, 3, H, W]; all float32 or float64."""
    answer = yield Ask(image, target.score, at=target.at, wrt=layer, want=ACT | GRAD)
    return placed(answer.act, layer, facts), placed(answer.grad, layer, facts)


def heat(values: Tensor) -> Explanation:
    """The positive part of `values` [h, w], floating, as a map that is enlarged bilinearly."""
    return Explanation(Heatmap(values.relu(), "bilinear"))


def enlarged(values: Tensor, image: Tensor) -> Tensor:
    """Maps `values` [n, h, w], floating, at the size of `image` [1, 3, H, W]: [n, H, W], bilinear between the centres
    of the cells."""
    return F.interpolate(values[:, None], size=image.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def strongest(activations: Tensor, count: int | None) -> Tensor:
    """The numbers [count], int64, of the channels of `activations` [channels, h, w], floating, that have the largest
    mean, the largest first. If `count` is None, all of them in their own order; else it is at least 1."""
    if count is None:
        return torch.arange(len(activations), device=activations.device)
    return activations.mean((1, 2)).argsort(descending=True, stable=True)[:count]
