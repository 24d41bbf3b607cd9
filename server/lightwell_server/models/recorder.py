"""Records a model as a graph of functional ATen calls while it runs once on a sample.

Each value is a `Box`: what it is on the sample, and the graph's node that computes it (None for constants). Tensor
operations run and are recorded; sizes stay symbolic; constants fold; operations in place become their functional
twins.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_any, tree_map

from lightwell_server.errors import InvalidArgument, Refused

aten = torch.ops.aten

# A recorded view may meet another memory layout than the sample's; reshape takes every layout.
_REPLACED = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
_NO_TWIN = "it changes a tensor in place and has no functional twin"


def guard(holds: bool, expected: bool, message: str) -> None:
    """A node of the graph: the branch taken while recording must be the branch that these rows take."""
    if bool(holds) != expected:
        raise InvalidArgument(message, reason="SIZE_NOT_SUPPORTED")


@dataclass(eq=False)
class Box:
    """A tensor or symbolic number: its value on the sample and its node. `stale` says where its memory was
    overwritten through another view."""

    value: Any
    node: fx.Node | None = None
    stale: str | None = None


@dataclass(frozen=True)
class Site:
    """A call of a module: its path, its class and the node of its output."""

    path: str
    type: str
    node: fx.Node


@dataclass
class Recorder:
    """The graph so far. `path` and `source` say where the model's own code is just now."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    root: torch.nn.Module = field(default_factory=torch.nn.Module)
    sites: list[Site] = field(default_factory=list)
    path: str = ""
    source: str = ""
    _constants: dict[_Identity, str] = field(default_factory=dict)
    _names: dict[_Identity, str] = field(default_factory=dict)
    _views: dict[int, weakref.WeakSet[Box]] = field(default_factory=dict)

    def refuse(self, what: str) -> Refused:
        """The error that names the node and its source line."""
        where = f" in {self.path or 'the model'}" + (f" ({self.source})" if self.source else "")
        return Refused(f"{what}{where}")

    def input(self, name: str, value: Tensor) -> Box:
        """A new input of the graph."""
        node = self.graph.placeholder("".join(c if c.isalnum() else "_" for c in name))
        node.meta["shape"] = tuple(value.shape)
        return self._box(value, node)

    def constant(self, value: Tensor, name: str = "") -> Box:
        """A parameter, buffer or literal tensor; `name` is its path in the file."""
        if value.is_quantized:
            raise self.refuse("quantised weights cannot be differentiated; bring the model in floating point:")
        if name:
            self._names.setdefault(_identity(value), name)
        return self._box(value.detach(), None)

    def op(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Runs an operation on the sample and records it."""
        target, args = _canonical(target, args)
        if target._schema.is_mutable:
            return self._in_place(target, args, kwargs)
        if torch.Tag.nondeterministic_seeded in target.tags and not _asleep(target, args, kwargs):
            raise self.refuse(f"{target} draws random numbers; export the model in eval mode:")
        return self._record(target, args, kwargs)

    def scalar(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        """Arithmetic on sizes and constants; recorded if a size takes part."""
        value = function(*(tree_map(self._concrete, arg) for arg in args))
        if not tree_any(_recorded, args):
            return value
        return Box(value, self._call(function, args, {}, scalar=True))

    def size(self, box: Box, dim: int) -> int | Box:
        """The size of a dimension, symbolic unless the tensor is a constant."""
        size = self._concrete(box).shape[dim]
        return size if box.node is None else Box(size, self._call(aten.sym_size.int, (box, dim), {}, scalar=True))

    def decide(self, condition: Any) -> bool:  # noqa: ANN401 - a bool or a Box
        """The way a branch takes: recorded as a guard if it depends on sizes, refused if on data."""
        if not isinstance(condition, Box):
            return bool(condition)
        if isinstance(condition.value, Tensor) and condition.node is not None:
            raise self.refuse("a branch depends on data, so no single graph describes the model:")
        taken = bool(condition.value)
        if condition.node is not None:
            place = self.refuse("branch").message
            message = f"the model takes another branch for this image size than for the card's: {place}"
            self._call(guard, (condition, taken, message), {}, scalar=True)
        return taken

    def number(self, box: Any) -> Any:  # noqa: ANN401
        """A tensor of one element as a number: a constant's, or a size's in disguise."""
        if not isinstance(box, Box) or not isinstance(box.value, Tensor):
            return box
        if box.node is not None:
            raise self.refuse("a number is read out of a tensor that depends on the image:")
        return box.value.item()

    def called(self, path: str, kind: str, output: Any) -> None:  # noqa: ANN401
        """Notes the output of a module's call, if it is a tensor that depends on the image."""
        if path and isinstance(output, Box) and output.node is not None and isinstance(output.value, Tensor):
            self.sites.append(Site(path, kind, output.node))

    def node(self, value: Any) -> Any:  # noqa: ANN401
        """What stands in the graph for a value: a node, or the constant itself."""
        if not isinstance(value, Box):
            return value
        if value.stale:
            raise self.refuse(f"a tensor is read whose memory was overwritten through a view, {value.stale}; read")
        if value.node is None and isinstance(value.value, Tensor):
            return self.graph.get_attr(self._constant_name(value.value))
        return value.value if value.node is None else value.node

    def _concrete(self, value: Any) -> Any:  # noqa: ANN401
        return value.value if isinstance(value, Box) else value

    def _record(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        result = target(*tree_map(self._concrete, args), **tree_map(self._concrete, kwargs))
        if not tree_any(_recorded, (args, kwargs)):
            return tree_map(lambda item: self._box(item, None) if isinstance(item, Tensor) else item, result)
        node = self._call(target, args, kwargs, scalar=False)
        if isinstance(result, Tensor):
            node.meta["shape"] = tuple(result.shape)
            return self._box(result, node)
        if isinstance(result, tuple | list):
            items = [None if item is None else self._item(node, i, item) for i, item in enumerate(result)]
            return type(result)(items) if type(result) in (tuple, list) else tuple(items)
        raise self.refuse(f"{target} reads a value out of the image:")

    def _item(self, node: fx.Node, index: int, value: Tensor) -> Box:
        item = self.graph.call_function(operator.getitem, (node, index))
        item.meta.update(node.meta, shape=tuple(value.shape))
        return self._box(value, item)

    def _in_place(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        name = target._schema.name.split("::")[1].removesuffix("_")
        twin = getattr(getattr(aten, name, None), target._overloadname, None)
        box = args[0] if args else None
        if twin is None or not isinstance(box, Box) or target._schema.name.endswith(("out", "set_", "resize_")):
            raise self.refuse(f"{target} cannot be lifted, {_NO_TWIN}:")
        new = self.op(twin, args, kwargs)
        if new.value.dtype != box.value.dtype:
            new = self._record(aten.to.dtype, (new, box.value.dtype), {})
        views = self._views[_storage(box.value)]
        views.discard(box)
        for other in views:
            if box.value.numel():
                other.stale = f"by {target} at {self.source or self.path}"
        box.value, box.node, box.stale = new.value, new.node, None
        self._views.setdefault(_storage(box.value), weakref.WeakSet()).add(box)
        return box

    def _call(self, target: Callable[..., Any], args: Any, kwargs: Any, scalar: bool) -> fx.Node:  # noqa: ANN401
        node = self.graph.call_function(target, tree_map(self.node, args), tree_map(self.node, kwargs))
        node.meta.update(path=self.path, source=self.source, scalar=scalar)
        return node

    def _box(self, value: Tensor, node: fx.Node | None) -> Box:
        box = Box(value, node)
        self._views.setdefault(_storage(value), weakref.WeakSet()).add(box)
        return box

    def _constant_name(self, value: Tensor) -> str:
        identity = _identity(value)
        if identity not in self._constants:
            name = self._names.get(identity, f"constant_{len(self._constants)}").replace(".", "_")
            while hasattr(self.root, name):
                name += "_"
            self.root.register_buffer(name, value)
            self._constants[identity] = name
        return self._constants[identity]


_Identity = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]


def _identity(value: Tensor) -> _Identity:
    """Two tensors with the same identity are one; valid while both are alive, as a model's parameters are."""
    return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype


def _canonical(target: OpOverload, args: tuple[Any, ...]) -> tuple[OpOverload, tuple[Any, ...]]:
    """One form for what exporters write in several."""
    if target is aten._convolution.default and not args[6] and len(args[3]) == 2:
        return aten.conv2d.default, (*args[:6], args[8])
    return _REPLACED.get(target, target), args


def _recorded(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, Box) and value.node is not None


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _asleep(target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a dropout, or an attention with dropout, is switched off."""
    names = [argument.name for argument in target._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    if "dropout_p" in names:
        return not given.get("dropout_p", 0.0)
    return "p" in names and not given.get("train", given.get("training", True))
