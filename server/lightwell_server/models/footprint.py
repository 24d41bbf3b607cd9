"""The memory that a row needs, computed from the shapes that a graph was recorded with."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

from torch import fx
from torch._ops import OpOverload

from lightwell_server.contract import GRAD, INPUT, Ask
from lightwell_server.models.graph import Graph
from lightwell_server.models.nodes import BATCH
from lightwell_server.models.subgraph import Subgraph, SubgraphKey

Sizes = tuple[float, float, float]
"""Elements of a row: all that a backward pass keeps, the largest value that it passes, the largest value before
`wrt`."""

# fmt: off
# Operations whose gradient needs neither their inputs nor their outputs.
_LINEAR = frozenset((
    "add", "alias", "cat", "chunk", "clone", "contiguous", "dropout", "expand", "flatten", "mean", "neg", "pad",
    "permute", "reshape", "rsub", "scaled", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "sub",
    "sum", "t", "to_copy", "transpose", "unbind", "unflatten", "unsqueeze", "view",
))
# Operations whose gradient needs their outputs, but not their inputs.
_BY_OUTPUT = frozenset(("exp", "log_softmax", "relu", "rsqrt", "sigmoid", "softmax", "sqrt", "tanh"))
# fmt: on
_SIZES: WeakKeyDictionary[Subgraph, Sizes] = WeakKeyDictionary()


def row_bytes(graph: Graph, ask: Ask) -> int:
    """An estimate of the bytes that one row of an Ask needs at its size, without weights. A backward pass keeps every
    value since `wrt` and holds a few gradients; without one a few values exist at a time."""
    subgraph = graph.subgraph(SubgraphKey.of(ask))
    if subgraph not in _SIZES:
        _SIZES[subgraph] = _sizes(graph, subgraph)
    kept, behind, before = _SIZES[subgraph]
    height, width = sides(graph, ask)
    share = height * width / math.prod(graph.size)
    elements = kept + 2 * behind + 3 * before if ask.want & GRAD else 3 * max(behind, before)
    return int(elements * share * graph.dtype.itemsize)


def sides(graph: Graph, ask: Ask) -> tuple[int, int]:
    """Height and width of an Ask's rows; for codes, the size that the graph was recorded at."""
    shape = ask.row
    height, width = shape[1:] if len(shape) == 3 else graph.size
    return height, width


def shape_at(graph: Graph, ask: Ask, name: str) -> tuple[int, ...]:
    """The shape of one row's value at a layer, for the size of an Ask's rows. Raises InvalidArgument if the model does
    not take it."""
    return tuple(ask.row) if name == INPUT else graph.shape(graph.node(name), sides(graph, ask))


def _sizes(graph: Graph, subgraph: Subgraph) -> Sizes:
    count = graph.fixed or BATCH
    kept = behind = before = 0.0
    differentiated = subgraph.rows is subgraph.wrt
    for stage in subgraph.stages:
        nodes = list(stage.module.graph.nodes)
        largest = max((_elements(node) / count for node in nodes), default=0.0)
        if differentiated:
            kept, behind = kept + sum(_elements(node) / count for node in nodes if _kept(node)), max(behind, largest)
        else:
            before = max(before, largest)
        differentiated = differentiated or stage.bound == subgraph.wrt.name
    return kept, behind, before


def _kept(node: fx.Node) -> bool:
    """Whether a backward pass needs a value again."""
    return _name(node) in _BY_OUTPUT or any(_name(user) not in _LINEAR | _BY_OUTPUT for user in node.users)


def _name(node: fx.Node) -> str:
    """The operation's name, without the underscores of its private and in-place forms."""
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.partition("::")[2].strip("_")
    return getattr(node.target, "__name__", "")


def _elements(node: fx.Node) -> float:
    """The number of values in a node's output; 0 for constants and what is not a tensor."""
    return math.prod(node.meta["shape"]) if node.op == "call_function" and "shape" in node.meta else 0.0
