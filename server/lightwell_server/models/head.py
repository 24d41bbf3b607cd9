"""How a model ends: its last linear layer, and the layer that is pooled before the scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import fx

from lightwell_server.models.nodes import ancestors

aten = torch.ops.aten

WEIGHTS: dict[Any, int] = {
    aten.linear.default: 1,
    aten.addmm.default: 2,
    aten.mm.default: 1,
    aten.matmul.default: 1,
}
"""The index of a linear layer's weights among an operation's arguments; its input is the argument before them."""
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
# Operations that change only the shape, or nothing.
_SHAPING = frozenset(
    ("_to_copy", "alias", "clone", "contiguous", "detach", "dropout", "flatten", "reshape", "squeeze", "to", "view")
)


def embedding(nodes: Iterable[fx.Node]) -> fx.Node | None:
    """The input of a model's last linear layer; None if there is none, or if a convolution follows it, as with channel
    attention."""
    last = [node for node in nodes if _linear(node) or node.target in CONVOLUTIONS][-1:]
    return _applied_to(last[0]) if last and _linear(last[0]) else None


def pooled(output: fx.Node) -> fx.Node | None:
    """The value [n, channels, height, width] whose mean over all positions is the scores, or the input of the linear
    layer that gives them; None if the model ends otherwise."""
    node = _behind(output)
    if _linear(node):
        node = _behind(_applied_to(node))
    if not _averages(node):
        return None
    source = _behind(node.all_input_nodes[0])
    return source if len(source.meta["shape"]) == 4 else None


def heads(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The values after which no weights follow."""
    nodes = list(nodes)
    before = ancestors(source for node in nodes if _weighs(node) for source in node.all_input_nodes)
    return set(nodes) - before


def _weighs(node: fx.Node) -> bool:
    return _linear(node) or (node.target in CONVOLUTIONS and _constant(cast(fx.Node, node.args[1])))


def _linear(node: fx.Node) -> bool:
    place = WEIGHTS.get(node.target)
    return place is not None and _constant(cast(fx.Node, node.args[place]))


def _constant(node: fx.Node) -> bool:
    return node.op == "get_attr" or (bool(node.all_input_nodes) and all(map(_constant, node.all_input_nodes)))


def _applied_to(linear: fx.Node) -> fx.Node:
    return cast(fx.Node, linear.args[WEIGHTS[linear.target] - 1])


def _behind(node: fx.Node) -> fx.Node:
    """The node whose values these are, whatever their shape."""
    while isinstance(node.target, torch._ops.OpOverload) and _name(node) in _SHAPING:
        node = node.all_input_nodes[0]
    return node


def _name(node: fx.Node) -> str:
    return cast(torch._ops.OpOverload, node.target)._schema.name.partition("::")[2]


def _averages(node: fx.Node) -> bool:
    """Whether a node takes the mean over all positions."""
    given = node.all_input_nodes[0].meta.get("shape", ()) if node.all_input_nodes else ()
    if len(given) != 4:
        return False
    if node.target is aten.mean.dim:
        return sorted(dim % 4 for dim in cast(list[int], node.args[1])) == [2, 3]
    if node.target is aten.adaptive_avg_pool2d.default:
        return tuple(node.meta["shape"][2:]) == (1, 1)
    if node.target is aten.avg_pool2d.default:
        size = cast(list[int], node.args[1])
        return tuple(node.meta["shape"][2:]) == (1, 1) and (size * 2)[:2] == list(given[2:]) and not _padded(node)
    return False


def _padded(node: fx.Node) -> bool:
    return len(node.args) > 3 and any(cast(list[int], node.args[3]))
