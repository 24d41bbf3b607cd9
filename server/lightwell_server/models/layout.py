"""Which values have their channels last, [n, height, width, channels], as in transformers with windows. Methods and
callers see all layers with their channels first."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx
from torch._ops import OpOverload

aten = torch.ops.aten

# Operations that leave every value in place, or move values along height and width alone.
# fmt: off
_KEEPING = frozenset((
    "_to_copy", "add", "clone", "contiguous", "div", "dropout", "gelu", "hardswish", "mul", "relu", "roll", "silu",
    "sub", "to",
))
# fmt: on


def channels_last(graph: fx.Graph) -> set[fx.Node]:
    """The values of four dimensions whose last one is the channels: inputs and outputs of a linear layer or layer norm
    over the last dimension, and what is computed from these position by position."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if len(node.meta.get("shape", ())) != 4:
            continue
        taken = any(_by_place(user) and user.args[0] is node for user in node.users)
        made = _name(node) in _KEEPING and not found.isdisjoint(node.all_input_nodes)
        if taken or made or _by_place(node):
            found.add(node)
    return found


def _by_place(node: fx.Node) -> bool:
    """Whether an operation sums over the last dimension alone."""
    if node.target is aten.layer_norm.default:
        return len(cast(list[int], node.args[1])) == 1
    return node.target is aten.linear.default


def _name(node: fx.Node) -> str:
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, OpOverload) else ""
