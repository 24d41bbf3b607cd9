"""The cost of a graph's operations: multiplications and additions for one row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

Shape = tuple[int, ...]

_PRODUCTS: dict[Any, Callable[[Shape, list[Shape]], int]] = {
    # Each value of a convolution's output is a sum over one filter's weights; in a transposed one, each of the input's.
    aten.conv1d.default: lambda out, given: math.prod(out) * math.prod(given[1][1:]),
    aten.conv2d.default: lambda out, given: math.prod(out) * math.prod(given[1][1:]),
    aten.conv2d.padding: lambda out, given: math.prod(out) * math.prod(given[1][1:]),
    aten.conv3d.default: lambda out, given: math.prod(out) * math.prod(given[1][1:]),
    aten.conv_transpose2d.input: lambda out, given: math.prod(given[0]) * math.prod(given[1][1:]),
    aten.linear.default: lambda out, given: math.prod(out) * given[1][-1],
    aten.matmul.default: lambda out, given: math.prod(out) * given[0][-1],
    aten.mm.default: lambda out, given: math.prod(out) * given[0][-1],
    aten.bmm.default: lambda out, given: math.prod(out) * given[0][-1],
    aten.addmm.default: lambda out, given: math.prod(out) * given[1][-1],
    aten.baddbmm.default: lambda out, given: math.prod(out) * given[1][-1],
    aten.scaled_dot_product_attention.default: lambda out, given: 2 * math.prod(out) * given[1][-2],
}


def costs(graph: fx.Graph, root: torch.nn.Module, count: int) -> dict[fx.Node, float]:
    """The multiply-adds of each operation that gives a tensor, for one of the `count` rows recorded. What is not a
    product counts one for each value of its output."""
    found = {}
    for node in graph.nodes:
        if node.op == "call_function" and "shape" in node.meta:
            given = [_shape(arg, root) for arg in node.args if isinstance(arg, fx.Node)]
            product = _PRODUCTS.get(node.target) if len(given) > 1 else None
            work = product(node.meta["shape"], given) if product is not None else math.prod(node.meta["shape"])
            found[node] = work / count
    return found


def shares(parts: dict[str, Iterable[fx.Node]], spent: dict[fx.Node, float]) -> dict[str, float]:
    """The share of the whole cost of each part, 0 to 1."""
    whole = sum(spent.values()) or 1.0
    return {name: sum(spent.get(node, 0.0) for node in nodes) / whole for name, nodes in parts.items()}


def _shape(node: fx.Node, root: torch.nn.Module) -> Shape:
    if node.op == "get_attr":
        return tuple(getattr(root, str(node.target)).shape)
    return tuple(node.meta.get("shape", ()))
