"""Records a model as a graph of functional ATen calls while it runs once on a sample.

Tensor operations run and are recorded. Sizes stay symbolic. Constants are folded. In-place operations become
functional, and a write through a view changes all tensors that share its memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_any, tree_leaves, tree_map

from lightwell_server.errors import Refused
from lightwell_server.models.lifting import eval_mode, functionalize, views
from lightwell_server.models.lifting.operations import (
    canonical,
    is_factory,
    of_image,
    positional,
    reads_data,
    recorded,
    switched_off,
)
from lightwell_server.models.lifting.views import Box, Memory, View
from lightwell_server.models.nodes import CallSite, guard, item_of, size_of

aten = torch.ops.aten

OPERATIONS = 200_000
"""The most operations of a model. One with more is refused, because it probably has an endless loop."""


ROUNDS = 1_000
"""The most rounds of a loop without a known limit."""


class Misfit(Refused):
    """A model that fails on images as the card describes them."""


class Endless(Refused):
    """A model that probably has an endless loop; it must not be run."""


@dataclass
class Recorder:
    """The graph so far.

    - `operation`, `path`, `source`: the current operation of the model, its module and its source line.
    - `graded`: whether gradients are enabled there.
    - `woken`: where training mode was switched off.
    - `blocked`: where gradients are cut.
    - `types`: dtypes of the file to those that replace them.
    - `dated`, `rounded`: whether the file was written before torch 2.1, and where that torch may have rounded
      differently."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    root: torch.nn.Module = field(default_factory=torch.nn.Module)
    sites: list[CallSite] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    operation: str = ""
    path: str = ""
    source: str = ""
    graded: bool = True
    types: Mapping[torch.dtype, torch.dtype] = field(default_factory=dict)
    dated: bool = False
    rounded: list[str] = field(default_factory=list)
    _kept: dict[_Identity, Box] = field(default_factory=dict)
    _names: dict[_Identity, str] = field(default_factory=dict)
    _constants: dict[_Identity, str] = field(default_factory=dict)
    _alive: list[Tensor] = field(default_factory=list)
    _operations: int = 0

    def refuse(self, what: str) -> Refused:
        """The error that names the node and its source line, and says what is wrong and what to do."""
        return Refused(f"{self.place}: {what}")

    def misfit(self, what: str) -> Misfit:
        """As `refuse`, for errors that another size or other channels on the card may fix."""
        return Misfit(f"{self.place}: {what}")

    @property
    def place(self) -> str:
        """The node and its source line, such as `aten::mul in layer1.0 (resnet.py:92)`."""
        where = f"{self.operation or 'the code'} in {self.path or 'the model'}"
        return f"{where} ({self.source})" if self.source else where

    def input(self, name: str, value: Tensor) -> Box:
        """A new input of the graph."""
        node = self.graph.placeholder("".join(c if c.isalnum() else "_" for c in name))
        node.meta.update(shape=tuple(value.shape), dtype=value.dtype)
        return _fresh(value, node)

    def constant(self, value: Tensor, name: str = "") -> Box:
        """A parameter, buffer or literal tensor of the file; `name` is its path there."""
        if value.is_quantized:
            raise self.refuse(QUANTISED)
        identity = _identity(value)
        if identity not in self._kept:
            self._alive.append(value)  # its identity is unique only while it exists
            value = value.detach().to(self._typed(value.dtype))
            kept = Memory(value, None, kept=name or "constants")
            self._kept[identity] = Box(value, None, kept)
            self._names[_identity(value)] = name
        return self._kept[identity]

    def op(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Runs an operation on the sample and records it."""
        self.tick()
        args, kwargs = tree_map(self._typed, positional(target, args, kwargs))
        target, args = canonical(target, args)
        if target.namespace.startswith("quantized"):
            raise self.refuse(QUANTISED)
        if target in functionalize.DECOMPOSED:
            return functionalize.DECOMPOSED[target](self, *args, **kwargs)
        if target._schema.is_mutable:
            return self._in_place(target, args, kwargs)
        if kwargs.get("dtype") is None and is_factory(target):
            kwargs = {**kwargs, "dtype": self._made(target, args, kwargs)}
        args, trained = eval_mode.evaluated(target, args)
        if trained:
            self.woken.append(self.path or "the model")
        if torch.Tag.nondeterministic_seeded in target.tags and not switched_off(target, args, kwargs):
            raise self.refuse("it draws random numbers; export the model in eval mode")
        result = self._record(target, args, kwargs)
        if self.dated and target in _FLOORING and of_image(result) and bool((result.value < 0).any()):
            self.rounded.append(self.source or self.path or "the model")
        return result if self.graded else tree_map(self._without_gradient, result)

    def _made(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype:
        """The dtype of a tensor that an operation makes without a given dtype. Once recorded, it follows the
        graph's."""
        numbers, named = tree_map(self._concrete, (args, kwargs))
        kind: torch.dtype = target(*numbers, **{**named, "device": "meta"}).dtype
        return self.types.get(kind, kind)

    def _without_gradient(self, result: Any) -> Any:  # noqa: ANN401
        """Detaches the result of a block without gradients."""
        if not of_image(result) or not result.value.is_floating_point():
            return result
        self.blocked.append(self.source or self.path or "the model")
        return self._record(aten.detach.default, (result,), {})

    def _typed(self, value: Any) -> Any:  # noqa: ANN401
        """The dtype that replaces a dtype; any other value unchanged."""
        return self.types.get(value, value) if isinstance(value, torch.dtype) else value

    def tick(self) -> None:
        """Counts an operation. Raises `Endless` if there are too many."""
        self._operations += 1
        if self._operations > OPERATIONS:
            raise Endless(
                self.refuse(f"the model takes more than {OPERATIONS:,} operations; shorten its loops").message
            )

    def turned(self, rounds: int, most: Any) -> None:  # noqa: ANN401 - a number or a Box
        """Raises `Endless` if a loop without a known limit has made too many rounds."""
        if rounds > ROUNDS and self._concrete(most) > OPERATIONS:
            raise Endless(self.refuse(f"a loop has made more than {ROUNDS:,} rounds; shorten it").message)

    def shaped(self, box: Box, sizes: list[Any]) -> Box:
        """The box in another shape."""
        result: Box = self.op(aten.reshape.default, (box, sizes), {})
        return result

    def scalar(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        """Arithmetic on sizes and constants; recorded if a size takes part."""
        self.tick()
        try:
            value = function(*(tree_map(self._concrete, arg) for arg in args))
        except (TypeError, ValueError, ZeroDivisionError, KeyError, IndexError) as error:
            raise self.misfit(f"arithmetic on sizes fails ({error})") from error
        if not tree_any(recorded, args):
            return value
        return Box(value, self._call(function, args, {}, scalar=True))

    def size(self, box: Box, dim: int) -> int | Box:
        """The size of a dimension, symbolic unless the tensor is a constant."""
        shape = self._concrete(box).shape
        if not -len(shape) <= dim < len(shape):
            raise self.misfit(f"it asks for dimension {dim} of a tensor that has {len(shape)}")
        size = shape[dim]
        return size if box.node is None else Box(size, self._call(size_of, (box, dim), {}, scalar=True))

    def decide(self, condition: Any) -> bool:  # noqa: ANN401 - a bool or a Box
        """The branch that a condition takes. It is guarded if it depends on sizes, and refused if it depends on
        data."""
        condition = self.number(condition)
        taken = bool(self._concrete(condition))
        if recorded(condition):
            message = f"the model takes another branch for this image size than for the card's, at {self.place}"
            self._call(guard, (condition, taken, message), {}, scalar=True)
        return taken

    def settled(self, value: Any) -> Any:  # noqa: ANN401
        """A size as its number on the sample, guarded: at run time another size is refused."""
        if not recorded(value) or isinstance(value.value, Tensor):
            return value
        self.decide(self.scalar(operator.eq, value, value.value))
        return value.value

    def number(self, box: Any) -> Any:  # noqa: ANN401
        """A tensor of one element as a number, if it depends only on constants or sizes; sizes stay symbolic."""
        if not isinstance(box, Box) or not isinstance(box.value, Tensor):
            return box
        if of_image(self._current(box)):
            raise self.refuse(DATA_DEPENDENT)
        return self.scalar(item_of, box)

    def called(self, path: str, kind: str, output: Any, begun: int) -> None:  # noqa: ANN401
        """Notes the output of a module's call if it depends on the image: the first tensor of several. `begun` is the
        number of nodes before the call."""
        tensors = [leaf for leaf in tree_leaves(output) if of_image(leaf) and isinstance(leaf.value, Tensor)]
        given = [leaf for leaf in tensors if leaf.value.is_floating_point()]
        if path and given:
            node = self.node(given[0])
            self.sites.append(CallSite(path, kind, node, tuple(self.nodes[begun:])))

    def node(self, value: Any) -> Any:  # noqa: ANN401
        """What represents a value in the graph: a node, or the constant itself."""
        if not isinstance(value, Box):
            return value
        value = self._current(value)
        if value.node is None and isinstance(value.value, Tensor):
            return self.graph.get_attr(self._constant_name(value.value))
        return value.value if value.node is None else value.node

    def _current(self, box: Box) -> Box:
        if box.stale:
            views.refresh(self, box)
        return box

    def _concrete(self, value: Any) -> Any:  # noqa: ANN401
        return self._current(value).value if isinstance(value, Box) else value

    def _record(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        concrete, named = tree_map(self._concrete, args), tree_map(self._concrete, kwargs)
        try:
            result = target(*concrete, **named)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if "allocate memory" in reason or "not enough memory" in reason:
                raise self.refuse(f"it needs more memory than there is ({reason}); give the server more") from error
            raise self.misfit(f"it fails ({reason})") from error
        same = [arg for arg in tree_leaves((args, kwargs)) if isinstance(arg, Box) and arg.value is result]
        if same and isinstance(result, Tensor):
            return same[0]
        live, imaged = tree_any(recorded, (args, kwargs)), tree_any(of_image, (args, kwargs))
        if imaged and reads_data(target, args):
            raise self.refuse(DATA_DEPENDENT)
        # What depends only on sizes and constants is cheap, so every stage that uses it computes it again.
        node = self._call(target, args, kwargs, scalar=not imaged) if live else None
        if isinstance(result, Tensor):
            if node is not None:
                node.meta.update(shape=tuple(result.shape), floating=result.is_floating_point())
            return self._shared(Box(result, node), View(target, args[1:], kwargs), args, kwargs)
        if isinstance(result, tuple | list):
            if live and not any(isinstance(item, Tensor) for item in result):
                return self._numbers(node, result)
            items = [
                self._shared(self._item(node, i, item), View(target, args[1:], kwargs, i), args, kwargs)
                if isinstance(item, Tensor)
                else item
                for i, item in enumerate(result)
            ]
            return type(result)(items) if type(result) in (tuple, list) else tuple(items)
        if imaged:
            raise self.refuse(DATA_DEPENDENT)
        return Box(result, node) if live else result

    def _numbers(self, node: Any, values: tuple[Any, ...] | list[Any]) -> Any:  # noqa: ANN401
        """Several numbers that an operation computes from sizes, such as quotient and remainder. Raises `Refused` if
        they depend on a tensor's contents or memory layout."""
        if not node.meta["scalar"]:
            raise self.refuse(DATA_DEPENDENT)
        items = (self._call(operator.getitem, (Box(values, node), i), {}, scalar=True) for i in range(len(values)))
        return type(values)(Box(value, item) for value, item in zip(values, items, strict=True))

    def _item(self, node: fx.Node | None, index: int, value: Tensor) -> Box:
        if node is None:
            return Box(value)
        item = self.graph.call_function(operator.getitem, (node, index))
        item.meta.update(node.meta, shape=tuple(value.shape), floating=value.is_floating_point())
        return Box(value, item)

    def _shared(self, box: Box, view: View, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Box:
        """Assigns a result its memory: that of the argument it shares, or its own."""
        sharing = [arg for arg in tree_leaves((args, kwargs)) if _shares(arg, box.value)]
        if not sharing:
            box.memory = Memory(box.value, box.node)
            return box
        box.memory, box.version = sharing[0].memory, sharing[0].version
        whole = sharing[0].views if args and args[0] is sharing[0] else None
        box.views = None if whole is None else (*whole, view)
        return box

    def _in_place(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        box = args[0] if args else None
        functional = functionalize.of(target)
        if functional is None or not isinstance(box, Box) or box.memory is None:
            raise self.refuse(f"{target} changes a tensor in place and has no functional twin; use one that has")
        if not self.graded and tree_any(of_image, (args, kwargs)):
            raise self.refuse("it changes a tensor in place in a block of torch.no_grad(); let it make a new one there")
        new = functional(self, *args, **kwargs)
        if torch.Tag.inplace_view in target.tags:  # another view of the same memory, such as by squeeze_
            box.value, box.node, box.views = new.value, new.node, new.views
            return box
        if new.value.dtype != box.value.dtype:
            new = self._record(aten.to.dtype, (new, box.value.dtype), {})
        views.write(self, box, new)
        return box

    def _call(self, target: Callable[..., Any], args: Any, kwargs: Any, scalar: bool) -> fx.Node:  # noqa: ANN401
        node = self.graph.call_function(target, tree_map(self.node, args), tree_map(self.node, kwargs))
        node.meta.update(path=self.path, source=self.source, scalar=scalar)
        self.nodes.append(node)
        return node

    def _constant_name(self, value: Tensor) -> str:
        identity = _identity(value)
        if identity not in self._constants:
            name = (self._names.get(identity) or f"constant_{len(self._constants)}").replace(".", "_")
            while hasattr(self.root, name):
                name += "_"
            self.root.register_buffer(name, value)
            self._constants[identity] = name
        return self._constants[identity]


_FLOORING = (aten.floor_divide.default, aten.floor_divide.Scalar)
QUANTISED = "quantised weights cannot be differentiated; bring the model in floating point"
DATA_DEPENDENT = (
    "a branch, a size or a number depends on the image, so no single graph describes the model; "
    "compute both ways and choose by torch.where"
)

_Identity = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]


def _identity(value: Tensor) -> _Identity:
    """Equal for tensors in the same memory with the same layout. Valid while both exist, as a model's parameters do."""
    return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype


def _fresh(value: Tensor, node: fx.Node | None) -> Box:
    return Box(value, node, Memory(value, node))


def _shares(box: Any, value: Tensor) -> bool:  # noqa: ANN401
    """Whether a box shares memory with a value."""
    if not isinstance(box, Box) or box.memory is None or not value.numel():
        return False
    mine: int = box.value.untyped_storage().data_ptr()
    return mine == value.untyped_storage().data_ptr()
