"""What tensors share memory, so that a write through one of them is seen by all the others.

A tensor of the recording is a `Box`: its value on the sample, its node, and the memory it lies in with the views that
lead there. A write makes a new version of the memory; boxes of an older version are derived anew when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, ops
from torch._ops import OpOverload

if TYPE_CHECKING:
    from lightwell_server.models.recorder import Recorder

aten = ops.aten

_SCATTERS = {aten.select.int: aten.select_scatter.default, aten.slice.Tensor: aten.slice_scatter.default}


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

    def of(self, recorder: Recorder, whole: Box) -> Box:
        """The view of another tensor of the same shape."""
        result: Any = recorder.op(self.target, (whole, *self.arguments), dict(self.named))
        part: Box = result if self.item is None else result[self.item]
        return part

    def put(self, recorder: Recorder, whole: Box, part: Box) -> Box:
        """The whole with `part` in the view's place."""
        seen = self.of(recorder, whole)
        ordered = whole.value.is_contiguous() and seen.value.is_contiguous()
        if ordered and seen.value.numel() == whole.value.numel():
            return part if seen.value.shape == whole.value.shape else recorder.shaped(part, _sizes(recorder, whole))
        if self.target in _SCATTERS:
            result: Box = recorder.op(_SCATTERS[self.target], (whole, part, *self.arguments), dict(self.named))
            return result
        return self._put_by_number(recorder, whole, part)

    def _put_by_number(self, recorder: Recorder, whole: Box, part: Box) -> Box:
        """Any view at all: seen through it, the elements' numbers tell where each element of the part belongs."""
        sizes = _sizes(recorder, whole)
        count = recorder.scalar(_product, *sizes)
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


def refresh(recorder: Recorder, box: Box) -> None:
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


def write(recorder: Recorder, box: Box, new: Box) -> None:
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
    memory.value, memory.node = changed.value, changed.node
    memory.writes += 1
    # What is written to the file's own memory is read by nobody: a version that never is makes every reader refuse.
    box.value, box.node, box.version = new.value, new.node, -1 if memory.kept else memory.writes


def _whole(memory: Memory) -> Box:
    return Box(memory.value, memory.node, memory, (), memory.writes)


def _sizes(recorder: Recorder, box: Box) -> list[Any]:
    return [recorder.size(box, dim) for dim in range(box.value.dim())]


def _product(*sizes: int) -> int:
    return math.prod(sizes)
