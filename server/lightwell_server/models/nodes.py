"""The terms that recording and reading a graph have in common: the nodes of sizes and guards, the calls of modules, and
which values have the batch as their first dimension."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx

from lightwell_server.errors import InvalidArgument

PIXELS = "<pixels>"
"""The path of what is recorded before and after the model: luminance, normalisation, an image's range."""
BATCH = 5
"""The number of rows that a model is recorded on. Few layers have a dimension of this size, so that a first dimension
of this size is the batch."""


def guard(holds: bool, expected: bool, message: str) -> None:
    """A node of the graph: the branch taken while recording must be the one that these rows take. Raises
    InvalidArgument."""
    if bool(holds) != expected:
        raise InvalidArgument(message, reason="SIZE_NOT_SUPPORTED")


def of_size(height: int, width: int, own_height: int, own_width: int) -> None:
    """A node of the graph: only images of its own size are taken. Raises InvalidArgument."""
    if (height, width) != (own_height, own_width):
        message = f"the model takes images of {own_height} x {own_width} alone, and this one has {height} x {width}"
        raise InvalidArgument(message, reason="SIZE_NOT_SUPPORTED")


def kept_rows(value: Tensor, rows: Tensor, own_height: int, own_width: int) -> None:
    """A node of the graph: a value must have as many rows as there are images. At another size a reshape may make
    several rows of one, and row i would then belong to another caller. Raises InvalidArgument."""
    if len(value) != len(rows):
        message = (
            f"the model, made for {own_height} x {own_width}, makes {len(value)} rows of {len(rows)} at "
            f"{' x '.join(map(str, rows.shape[2:]))}; send images of its own size"
        )
        raise InvalidArgument(message, reason="SIZE_NOT_SUPPORTED")


GUARDS = (guard, of_size, kept_rows)


def size_of(value: Tensor, dim: int) -> int:
    """A node of the graph: the size of a dimension."""
    return value.size(dim)


def item_of(value: Tensor) -> int | float | bool:
    """A node of the graph: a tensor of one element as a number. It depends only on sizes."""
    number: int | float | bool = value.item()
    return number


@dataclass(frozen=True)
class CallSite:
    """A call of a module: its path, its class, the node of its output, and the nodes computed inside; or, if
    `functional`, an operation in the module of that path."""

    path: str
    type: str
    node: fx.Node
    inside: tuple[fx.Node, ...] = ()
    functional: bool = False


def by_rows(node: fx.Node, fixed: int | None) -> bool:
    """Whether the first dimension of a value is the batch: it has the sample's size, and size one for one row."""
    shape = tuple(node.meta.get("shape", ()))
    if fixed is not None:
        return shape[:1] == (fixed,)
    return shape[:1] == (BATCH,) and tuple(node.meta.get("single", (1, *shape[1:]))) == (1, *shape[1:])


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes, and all nodes that they are computed from."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found
