"""Tracks which tensors share memory, so that a write through one of them changes all the others.

A tensor of the recording is a `Box`: its value on the sample, its node, its memory, and the views that lead from the
memory to it. A write makes a new version of the memory; boxes of an older version are computed again when they are
read.
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
"""Views of all elements at every size."""
_SCATTERS = {aten.select.int: aten.select_scatter.default, aten.slice.Tensor: aten.slice_scatter.default}


class Recording(Protocol):
    """The part of a recorder that views and functional forms use."""

    def op(self, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Runs an operation and records it."""

    def shaped(self, box: Box, sizes: list[Any]) -> Box:
        """The box in another shape."""

    def scalar(self, function: Any, *args: Any) -> Any:  # noqa: ANN401
        """Arithmetic on sizes."""

    def size(self, box: Box, dim: int) -> int | Box:
        """The size of a dimension."""

    def refuse(self, what: str) -> Refused:
        """The error, with the current place in the model."""


@dataclass(eq=False)
class Memory:
    """A memory block: the whole tensor in it, and the number of writes. `kept` names the parameter or buffer of the
    file that it holds: what is written there remains after a call."""

    value: Tensor
    node: fx.Node | None
    writes: int = 0
    kept: str = ""


@dataclass(frozen=True)
class View:
    """An operation whose result shares its first argument's memory; `item` is the index if it has several results."""

    target: OpOverload
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    item: int | None = None

    def of(self, recorder: Recording, whole: Box) -> Box:
        """This view of another tensor of the same shape."""
        result: Any = recorder.op(self.target, (whole, *self.arguments), dict(self.named))
        part: Box = result if self.item is None else result[self.item]
        return part

    def value(self, whole: Tensor) -> Tensor:
        """The same for a value on the sample."""
        args, kwargs = tree_map(lambda a: a.value if isinstance(a, Box) else a, (self.arguments, dict(self.named)))
        result: Any = self.target(whole, *args, **kwargs)
        part: Tensor = result if self.item is None else result[self.item]
        return part

    def put(self, recorder: Recording, whole: Box, part: Box) -> Box:
        """The whole tensor with `part` in the view's positions."""
        if self.target in _SCATTERS:
            result: Box = recorder.op(_SCATTERS[self.target], (whole, part, *self.arguments), dict(self.named))
            return result
        seen = self.of(recorder, whole)
        if self.target not in _WHOLE:  # it may cover all of the sample, but less of another image
            return self._put_by_number(recorder, whole, part)
        if (seen.value.shape, seen.value.stride()) == (whole.value.shape, whole.value.stride()):
            return part
        if whole.value.is_contiguous() and seen.value.is_contiguous():
            return recorder.shaped(part, _sizes(recorder, whole))
        return self._put_by_number(recorder, whole, part)

    def _put_by_number(self, recorder: Recording, whole: Box, part: Box) -> Box:
        """The same for any view: the view of the elements' indices gives the position of each element of the part."""
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
    """A tensor or symbolic number: its value on the sample and its node (None for constants). A tensor also has its
    memory, the `views` that lead from the memory to it (None if they cannot be followed), and its version of the
    memory."""

    value: Any
    node: fx.Node | None = None
    memory: Memory | None = field(default=None, repr=False)
    views: tuple[View, ...] | None = ()
    version: int = 0

    @property
    def stale(self) -> bool:
        """Whether its memory has been written to since this version."""
        return self.memory is not None and self.memory.writes != self.version


def refresh(recorder: Recording, box: Box) -> None:
    """Computes a box again from its memory."""
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
    # A write to the file's own memory must not be read: a version that never exists makes every later read fail.
    box.version = -1 if memory.kept else memory.writes
    box.value, box.node = memory.value, new.node
    for view in box.views:
        box.value = view.value(box.value)


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """The value in the strides of another tensor: a write does not change them, and they decide which later results are
    views."""
    if value.stride() == like.stride():
        return value
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device).copy_(value)


def _whole(memory: Memory) -> Box:
    return Box(memory.value, memory.node, memory, (), memory.writes)


def _sizes(recorder: Recording, box: Box) -> list[Any]:
    return [recorder.size(box, dim) for dim in range(box.value.dim())]


def product(*sizes: int) -> int:
    """The number of elements of a tensor of these sizes."""
    return math.prod(sizes)
