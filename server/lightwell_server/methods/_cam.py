"""What class activation maps share: their layer, and what is read there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightwell_server.contract import ACT, GRAD, Ask, Asking, Explanation, Facts, Heatmap, Layer, Target


def no_grid_layer(facts: Facts) -> str | None:
    """Why a method that needs a layer with height and width does not apply."""
    return None if _grid_layers(facts) else "the model has no layer with height and width"


def cam_layer(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The card's layer, else that of the model."""
    return {"layer": _chosen(facts)[0]}


def cam_reason(facts: Facts) -> str:
    """Why this is the layer if none is named."""
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
    """One row's activations or gradients at a layer with height and width, as [channels, h, w]."""
    found = facts.layer(layer)
    assert found is not None and found.grid is not None  # the layer was checked
    return found.grid.laid_out(values)[0]


def activations_and_gradients(image: Tensor, target: Target, layer: str, facts: Facts) -> Asking:
    """Activations and gradients of a layer, [channels, h, w] each."""
    answer = yield Ask(image, target.score, at=target.at, wrt=layer, want=ACT | GRAD)
    return placed(answer.act, layer, facts), placed(answer.grad, layer, facts)


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
