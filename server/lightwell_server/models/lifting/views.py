"""What tensors share memory, so that a write through one of them is seen by all the others.

A tensor of the recording is a `Box`: its value on the sample, its node, and the memory it lies in with the views that
lead there. A write makes a new version of the memory; boxes of an older version are derived anew when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx, ops
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from lightwell_server.errors import Refused

aten = ops.aten

_WHOLE = (
    *(aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default, aten.alias.default),
    *(aten.squeeze.default, aten.squeeze.dim, aten.detach.default, aten.to.dtype, aten.to.other, aten.transpose.int),
    *(aten.permute.default, aten.t.default, aten.view_as.default, aten.reshape_as.default),
)
"""Views of all elements, whatever the size."""
_SCATTERS = {aten.select.int: aten.select_scatter.default, aten.slice.Tensor: aten.slice_scatter.default}


class Recording(Protocol):
    """What views and functional forms need of a recorder."""

    def op(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Runs an operation and records it."""

    def shaped(self, box: Box, sizes: list[Any]) -> Box:
        """The box in another shape."""

    def scalar(self, function: Any, *args: Any) -> Any:  # noqa: ANN401
        """Arithmetic on sizes."""

    def size(self, box: Box, dim: int) -> int | Box:
        """The size of a dimension."""

    def refuse(self, what: str) -> Refused:
        """The error that names the place."""


@dataclass(eq=False)
class Memory:
    """A stretch of memory: the whole tensor in it, and how often it was written to. `kept` names the parameter or
    buffer of the file that lies there: what is written to it outlasts a call."""

    value: Tensor
    node: fx.Node | None
    writes: int = 0
    kept: str = ""


@dataclass(frozen=True)
class View:
    """An operation whose result shares its first argument's memory; `item` is which of several results."""

    target: OpOverload
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    item: int | None = None

    def of(self, recorder: Recording, whole: Box) -> Box:
        """The view of another tensor of the same shape."""
        result: Any = recorder.op(self.target, (whole, *self.arguments), dict(self.named))
        part: Box = result if self.item is None else result[self.item]
        return part

    def value(self, whole: Tensor) -> Tensor:
        """The same on the sample alone."""
        args, kwargs = tree_map(lambda a: a.value if isinstance(a, Box) else a, (self.arguments, dict(self.named)))
        result: Any = self.target(whole, *args, **kwargs)
        part: Tensor = result if self.item is None else result[self.item]
        return part

    def put(self, recorder: Recording, whole: Box, part: Box) -> Box:
        """The whole with `part` in the view's place."""
        if self.target in _SCATTERS:
            result: Box = recorder.op(_SCATTERS[self.target], (whole, part, *self.arguments), dict(self.named))
            return result
        seen = self.of(recorder, whole)
        if self.target not in _WHOLE:  # it may see all of the sample and less of another image
            return self._put_by_number(recorder, whole, part)
        if (seen.value.shape, seen.value.stride()) == (whole.value.shape, whole.value.stride()):
            return part
        if whole.value.is_contiguous() and seen.value.is_contiguous():
            return recorder.shaped(part, _sizes(recorder, whole))
        return self._put_by_number(recorder, whole, part)

    def _put_by_number(self, recorder: Recording, whole: Box, part: Box) -> Box:
        """Any view at all: seen through it, the elements' numbers tell where each element of the part belongs."""
        sizes = _sizes(recorder, whole)
        count = recorder.scalar(product, *sizes)
        numbers = recorder.op(aten.arange.default, (count,), {"device": whole.value.device})
        places = self.of(recorder, recorder.shaped(numbers, sizes))
        flat = recorder.op(
            aten.index_put.default,
            (recorder.shaped(whole, [-1]), [recorder.shaped(places, [-1])], recorder.shaped(part, [-1])),
            {},
        )
        return recorder.shaped(flat, sizes)


@dataclass(eq=False)
class Box:
    """A tensor or symbolic number: its value on the sample and its node (None for constants). Tensors know their
    memory, the `views` that lead from it to them (None if they cannot be followed), and which of its versions they
    show."""

    value: Any
    node: fx.Node | None = None
    memory: Memory | None = field(default=None, repr=False)
    views: tuple[View, ...] | None = ()
    version: int = 0

    @property
    def stale(self) -> bool:
        """Whether its memory has been written to since."""
        return self.memory is not None and self.memory.writes != self.version


def refresh(recorder: Recording, box: Box) -> None:
    """Derives a box anew from its memory."""
    memory = box.memory
    assert memory is not None
    if memory.kept:
        raise recorder.refuse(f"the model changes {memory.kept} of its own while it runs; export it without state")
    if box.views is None:
        raise recorder.refuse(
            "it reads memory that was overwritten through a view that cannot be followed; clone before"
        )
    box.version = memory.writes
    current = _whole(memory)
    for view in box.views:
        current = view.of(recorder, current)
    box.value, box.node = current.value, current.node


def write(recorder: Recording, box: Box, new: Box) -> None:
    """Writes a tensor of the same shape into the memory of a box."""
    memory = box.memory
    assert memory is not None
    if box.views is None:
        raise recorder.refuse("it changes a tensor through a view that cannot be followed; clone before")
    wholes = [_whole(memory)]
    for view in box.views:
        wholes.append(view.of(recorder, wholes[-1]))
    changed = new
    for view, whole in zip(reversed(box.views), reversed(wholes[:-1]), strict=True):
        changed = view.put(recorder, whole, changed)
    memory.value, memory.node = _laid_out(changed.value, memory.value), changed.node
    memory.writes += 1
    # What is written to the file's own memory is read by nobody: a version that never is makes every reader refuse.
    box.version = -1 if memory.kept else memory.writes
    box.value, box.node = memory.value, new.node
    for view in box.views:
        box.value = view.value(box.value)


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """The value in the strides of another tensor: a write moves no memory, and what is a view later depends on it."""
    if value.stride() == like.stride():
        return value
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device).copy_(value)


def _whole(memory: Memory) -> Box:
    return Box(memory.value, memory.node, memory, (), memory.writes)


def _sizes(recorder: Recording, box: Box) -> list[Any]:
    return [recorder.size(box, dim) for dim in range(box.value.dim())]


def product(*sizes: int) -> int:
    """How many elements a tensor of these sizes has."""
    return math.prod(sizes)
