"""Grad-CAM: a layer's channels, weighted by their mean gradient. Selvaraju et al. 2016, arXiv:1610.02391."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator

from lightwell_server.ask import ACT, GRAD, Ask, Explaining, Explanation, Facts, Fitted, Heatmap, LayerName
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._math import as_grid, grid_layers, no_grid_layer
from lightwell_server.target import Target

applies = no_grid_layer


def defaults(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The card's layer, else the last with height and width, of transformers the last norm before attention."""
    last = grid_layers(facts)[-1]
    tokens = len(last.shape) == 2 and facts.attended is not None
    own = facts.attended if tokens else last.name
    return {"layer": (*facts.defaults.get("grad_cam", ()), own)[0]}


def grad_cam(
    image: Fitted, target: Target, facts: Facts, rng: Generator, *, layer: LayerName, relu: bool = True
) -> Explaining:
    """A map [h, w] on the layer's grid. A transformer's tokens are laid out as a grid, its class token dropped."""
    answer = yield Ask(image, target.score, at=target.at, wrt=layer, want=ACT | GRAD)
    activations, grads = as_grid(answer.act), as_grid(answer.grad)
    if activations is None or grads is None:
        raise InvalidArgument.at(
            "grad_cam.layer", f"{layer} has no height and width; its output is {tuple(answer.act.shape[1:])}"
        )
    weights = grads.mean((2, 3), keepdim=True)
    values = (weights * activations).sum(1)[0]
    return Explanation(Heatmap(values.relu() if relu else values, "bilinear", signed=not relu))
