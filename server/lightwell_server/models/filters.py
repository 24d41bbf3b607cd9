"""The weights of a model's convolutions and linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lightwell_server.models.graph import Graph
from lightwell_server.models.head import CONVOLUTIONS, WEIGHTS

aten = torch.ops.aten


def weights(graph: Graph, name: str) -> Tensor | None:
    """A layer's weights without its bias: [filters, channels, height, width] for a convolution, [filters, channels] for
    a linear layer, in the graph's dtype. None if it is neither, or if its weights depend on the image."""
    node = graph.node(name)
    if node.target in CONVOLUTIONS:
        return _constant(graph, node.args[1])
    place = WEIGHTS.get(node.target)
    value = None if place is None else _constant(graph, node.args[place])
    if value is None or value.dim() != 2:
        return None
    return value if node.target is aten.linear.default else value.T


def convolutions(graph: Graph) -> list[str]:
    """The names of all layers that are convolutions, in the order of computation."""
    return [layer.name for layer in graph.layers if graph.nodes[layer.name].target in CONVOLUTIONS]


def _constant(graph: Graph, node: Any) -> Tensor | None:  # noqa: ANN401 - an argument of a node
    """A node's value, if it is the same for every image."""
    if not isinstance(node, fx.Node) or node.op == "placeholder":
        return None
    values = {source: _constant(graph, source) for source in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    result: Tensor = graph.evaluate(node, values)
    return result
