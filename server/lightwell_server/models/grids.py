"""Which of a graph's values are a grid of positions, and their shapes at any size of the image.

The graph runs on positions instead of numbers. Operations that move values move their boxes, those that work position
by position keep them, and sums over positions take the box around all. The output of an unknown operation comes from
the whole image, so that it has no grid. Sizes and constants are computed as usual.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from lightwell_server.contract import Grid
from lightwell_server.models import places

# fmt: off
_MOVING = frozenset((
    "cat", "channel_shuffle", "chunk", "concat", "constant_pad_nd", "diagonal", "expand", "expand_as", "flatten",
    "flip", "gather", "im2col", "index", "index_put", "index_select", "movedim", "moveaxis", "narrow", "pad", "permute",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad2d", "repeat", "repeat_interleave", "replication_pad2d",
    "reshape", "reshape_as", "roll", "rot90", "select", "select_scatter", "slice", "slice_scatter", "split",
    "split_with_sizes", "squeeze", "stack", "swapaxes", "swapdims", "t", "take_along_dim", "tensor_split", "tile",
    "transpose", "unbind", "unflatten", "unfold", "unsafe_chunk", "unsafe_split", "unsqueeze", "view", "view_as",
    "_reshape_alias", "_unsafe_view",
))
"""Operations that leave every value unchanged, but move it within the tensor."""
_KEEPING = frozenset((
    "_log_softmax", "_softmax", "_to_copy", "alias", "clone", "contiguous", "detach", "dropout",
    "feature_dropout", "hardswish", "lift_fresh", "log_softmax", "pin_memory", "softmax", "to", "type_as",
))
"""Operations whose output comes, value by value, from their first argument."""
_NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm")
_POINTWISE = frozenset((
    "__and__", "__or__", "_prelu_kernel", "absolute", "divide", "floor_divide", "log_sigmoid", "masked_fill",
    "multiply", "negative", "prelu", "subtract", "where",
))
"""Pointwise operations that torch does not tag as such."""
_REDUCING = frozenset((
    "all", "amax", "amin", "any", "argmax", "argmin", "linalg_vector_norm", "logsumexp", "max", "mean", "median", "min",
    "norm", "prod", "std", "std_mean", "sum", "var", "var_mean",
))
_SPATIAL = ("conv", "pool", "upsample")
_INDEXING = frozenset(("gather", "index", "index_put", "index_select", "repeat_interleave", "take_along_dim"))
"""Operations whose second argument says which values are taken; it must be known."""
_PRODUCTS = frozenset(("addbmm", "addmm", "baddbmm", "bmm", "linear", "matmul", "mm", "mv"))
_FRESH = frozenset((
    "empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like",
))
# fmt: on


@dataclass(frozen=True, eq=False)
class Placed:
    """A value that depends on the image: a meta tensor like it, and the boxes of its positions."""

    like: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class NodeShape:
    """A node's shape, its grid or None, and whether its channels come last."""

    shape: tuple[int, ...]
    grid: Grid | None = None
    last: bool = False


@torch.no_grad()
def node_shapes(
    graph: fx.Graph,
    root: torch.nn.Module,
    wanted: Collection[fx.Node],
    single: Collection[fx.Node],
    rows: int,
    dtype: torch.dtype,
    size: Sequence[int] | None = None,
) -> dict[fx.Node, NodeShape]:
    """The shapes and grids of the wanted values, for `rows` images of a size and dtype; without a size, the recorded
    one. The values in `single` have no batch dimension. Raises InvalidArgument if a guard of the graph refuses the
    size, RuntimeError if an operation fails at it."""
    run = _Run(root, rows, dtype, size)
    last_use = {source: node for node in graph.nodes for source in node.all_input_nodes}
    found = {}
    for node in graph.nodes:
        if node.op == "output":
            continue
        value = run.values[node] = run.value(node)
        if node in wanted and isinstance(value, Placed):
            boxes = value.boxes[None] if node in single else value.boxes
            found[node] = NodeShape(tuple(value.like.shape), *run.grid(boxes))
        for source in node.all_input_nodes:
            if last_use[source] is node:
                del run.values[source]
    return found


@dataclass
class _Run:
    """A graph while it runs: the values of nodes that others still need."""

    root: torch.nn.Module
    rows: int
    dtype: torch.dtype
    size: Sequence[int] | None
    values: dict[fx.Node, Any] = field(default_factory=dict)
    _grids: dict[Any, tuple[Any, ...]] = field(default_factory=dict)

    def grid(self, boxes: Tensor) -> tuple[Any, ...]:
        """The grid of a value and whether its channels come last, or () if it has none. Cached, because most values of
        a model have the same positions as others."""
        key = tuple(boxes.shape), places.content(boxes)
        if key not in self._grids:
            self._grids[key] = places.grid(boxes) or ()
        return self._grids[key]

    def value(self, node: fx.Node) -> Any:  # noqa: ANN401 - whatever a node gives
        """Sizes and constants unchanged, other values as `Placed` or lists of `Placed`."""
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "get_attr":
            return getattr(self.root, str(node.target))
        target: Any = node.target
        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if target is operator.getitem and not isinstance(args[0], Placed):
            return args[0][args[1]]
        placed = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Placed)]
        if not placed:
            return target(*args, **kwargs)
        if not isinstance(target, OpOverload):
            return target(*_mapped(args, _like), **_mapped(kwargs, _like))  # the size of a value
        moved = _moved(target, args, kwargs, placed[0].like.dtype)
        return _computed(target, args, kwargs, self._like(node)) if moved is None else moved

    def _input(self, node: fx.Node) -> Placed:
        """The image, whose pixels have positions, or another input, which has none."""
        rest, dtype = node.meta["shape"][1:], node.meta["dtype"]
        image = len(rest) == 3 and node is next(iter(node.graph.nodes))
        shape = (self.rows, rest[0], *(self.size or rest[1:])) if image else (self.rows, *rest)
        like = torch.empty(shape, dtype=self.dtype if dtype.is_floating_point else dtype, device="meta")
        return Placed(like, places.pixels(shape) if image else places.nowhere(shape))

    def _like(self, node: fx.Node) -> Any:  # noqa: ANN401
        """A meta tensor of the recorded shape, or a list of those of several outputs that are used; None if it is not
        known."""
        if self.size is not None:
            return None
        shape = node.meta.get("shape" if self.rows > 1 else "single")
        if shape is None:
            getting = [user for user in node.users if user.target is operator.getitem]
            items: dict[Any, Any] = {user.args[1]: self._like(user) for user in getting}
            return [items.get(i) for i in range(max(items) + 1)] if items else None
        return torch.empty(shape, dtype=self.dtype if node.meta.get("floating") else torch.long, device="meta")


def _moved(target: OpOverload, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - an operation's
    """The output of an operation that only moves values; None if it does more, or if the image decides where they
    move."""
    name = _name(target)
    if name not in _MOVING or any(isinstance(leaf, torch.dtype) for leaf in args):
        return None
    chosen = args[1:2] if name in _INDEXING else ()
    added = name == "index_put" and (kwargs.get("accumulate") or any(args[3:]))
    if added or any(isinstance(leaf, Placed) for leaf in _leaves(chosen)):
        return None
    if "pad" in name:  # padding comes from nowhere, whatever its value
        args, kwargs = args[: 3 if name == "pad" else 2], {key: kwargs[key] for key in kwargs if key != "value"}
    boxes = [_mapped(part, _here if i == 1 and chosen else _boxed) for i, part in enumerate(args)]
    try:
        moved = target(*boxes, **_mapped(kwargs, _boxed))
    except RuntimeError:  # boxes have another memory layout
        return None
    return _each(moved, lambda one: Placed(torch.empty(one.shape, dtype=dtype, device="meta"), places.lean(one)))


def _computed(target: OpOverload, args: Any, kwargs: Any, like: Any) -> Any:  # noqa: ANN401
    """The output of any other operation, with the shapes of `like` if these are known."""
    given = {**dict(zip((part.name for part in target._schema.arguments), args, strict=False)), **kwargs}
    likes = _likes(target, args, kwargs) if like is None else like
    return _each(likes, lambda one: Placed(one, _boxes(target, given, one)))


def _boxes(target: OpOverload, given: Mapping[str, Any], like: Tensor) -> Tensor:
    """The boxes of an output shaped as `like`, from the operation's arguments by name; the whole image if they are not
    known."""
    try:
        boxes = _known(target, _name(target), given, like)
    except (RuntimeError, IndexError):  # the operation has several outputs, and this one has another shape
        boxes = None
    return places.everywhere(like.shape) if boxes is None or boxes.shape != like.shape else boxes


def _known(target: OpOverload, name: str, given: Mapping[str, Any], like: Tensor) -> Tensor | None:
    tensors: list[Tensor] = [_boxed(leaf) for leaf in _leaves(given) if isinstance(leaf, Placed | Tensor)]
    if torch.Tag.pointwise in target.tags or name in _POINTWISE:
        return reduce(places.met, tensors).expand(like.shape)
    if name in _FRESH:
        return places.nowhere(like.shape)
    if name in _KEEPING or any(norm in name for norm in _NORMS):
        return tensors[0]
    if name in _REDUCING:
        dims = given.get("dim")
        dims = range(tensors[0].dim()) if dims in (None, []) else dims
        return places.merged(tensors[0], [dims] if isinstance(dims, int) else dims).reshape(like.shape)
    if "scaled_dot_product" in name:
        query, _, value = tensors[:3]
        every = places.merged(value, range(1, value.dim()))
        return places.met(places.merged(query, (-1,)), every, weighed=True).expand(like.shape)
    if name in _PRODUCTS:
        return _product(name, tensors, like)
    if any(word in name for word in _SPATIAL):
        return _convolved(tensors, like)
    return None


def _product(name: str, tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """A matrix product: sums over each row of the first factor, weighted by the columns of the second."""
    bias, factors = (tensors[:1], tensors[1:]) if name.startswith(("add", "badd")) else (tensors[2:], tensors[:2])
    first, second = factors
    if name == "linear":
        second = second.t()
    columns = places.merged(second, (-2 if second.dim() > 1 else -1,))
    product = places.met(places.merged(first, (-1,)), columns, weighed=True).reshape(like.shape)
    return reduce(places.met, bias, product)


def _convolved(tensors: Sequence[Tensor], like: Tensor) -> Tensor | None:
    """Convolutions, poolings and interpolations over height and width; in one dimension only those with a kernel of
    one."""
    boxes = places.merged(tensors[0], (1,))
    if like.dim() == 4:
        boxes = places.resampled(places.resampled(boxes, 2, like.shape[2]), 3, like.shape[3])
    elif len(tensors) < 2 or tensors[1].dim() != 3 or tensors[1].shape[2] != 1:
        return None
    return boxes.expand(like.shape)


def _name(target: OpOverload) -> str:
    return target._schema.name.partition("::")[2]


def _likes(target: OpOverload, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - an operation's arguments
    """Meta tensors like an operation's outputs."""
    try:
        return target(*_mapped(args, _like), **_mapped(kwargs, _like))
    except (RuntimeError, NotImplementedError):  # it has no meta implementation
        real = target(*_mapped(args, _here), **_mapped(kwargs, _here))
        return _each(real, lambda tensor: tensor.to("meta"))


def _like(leaf: Any) -> Any:  # noqa: ANN401 - whatever an operation takes
    if isinstance(leaf, torch.device):
        return torch.device("meta")
    return leaf.like if isinstance(leaf, Placed) else leaf.to("meta") if isinstance(leaf, Tensor) else leaf


def _here(leaf: Any) -> Any:  # noqa: ANN401
    """The value on the CPU, where boxes are; zeros if it depends on the image."""
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    if isinstance(leaf, Placed):
        return torch.zeros_like(leaf.like, device="cpu")
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _boxed(leaf: Any) -> Any:  # noqa: ANN401
    if isinstance(leaf, Placed):
        return leaf.boxes
    return places.nowhere(leaf.shape) if isinstance(leaf, Tensor) else leaf


def _mapped(arguments: Any, function: Any) -> Any:  # noqa: ANN401
    return fx.node.map_aggregate(arguments, function)


def _each(given: Any, function: Any) -> Any:  # noqa: ANN401
    """Applies a function to a tensor or to each of several; returns anything else unchanged."""
    if isinstance(given, tuple | list):
        return [_each(one, function) for one in given]
    return function(given) if isinstance(given, Tensor) else given


def _leaves(arguments: Any) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(arguments, tuple | list):
        for one in arguments:
            yield from _leaves(one)
    elif isinstance(arguments, dict):
        yield from _leaves(list(arguments.values()))
    else:
        yield arguments
