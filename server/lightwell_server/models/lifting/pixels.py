"""Converts between rows and a file's inputs. Rows are images [n, channels, height, width] with values in [0, 1]. A file
may take them normalised, as luminance, in BGR order, channels last, as uint8, or as one image without a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from lightwell_server.errors import Refused
from lightwell_server.models.lifting.files import Limit, ModelFile
from lightwell_server.models.lifting.recorder import Recorder, aten
from lightwell_server.models.lifting.sample import LUMINANCE, Sample
from lightwell_server.models.lifting.views import Box, Memory
from lightwell_server.models.nodes import PIXELS

_Operation = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Runs an operation on tensors, or records it."""


def normalised(rows: Box, sample: Sample, recorder: Recorder) -> Box:
    """Rows with the file's luminance, mean and standard deviation, as `Sample.normalise` makes them."""
    if sample.kind == "generator":
        return rows
    recorder.path = PIXELS

    def constant(values: tuple[float, ...], name: str) -> Any:  # noqa: ANN401
        return recorder.constant(torch.tensor(values, dtype=rows.value.dtype).view(1, -1, 1, 1), name)

    if sample.grey:
        weighted = recorder.op(aten.mul.Tensor, (rows, constant(LUMINANCE, "luminance")), {})
        rows = recorder.op(aten.sum.dim_IntList, (weighted, [1], True), {})
    if any(sample.mean) or any(value != 1 for value in sample.std):
        centred = recorder.op(aten.sub.Tensor, (rows, constant(sample.mean, "mean")), {})
        rows = recorder.op(aten.div.Tensor, (centred, constant(sample.std, "std")), {})
    recorder.path = ""
    return rows


def pictured(output: Box, sample: Sample, recorder: Recorder) -> fx.Node:
    """An image's values in [0, 1]; any other output unchanged."""
    low, high = sample.range
    if sample.kind != "classifier" and sample.range != (0.0, 1.0):
        recorder.path = PIXELS
        shifted = recorder.op(aten.sub.Scalar, (output, low), {})
        output = recorder.op(aten.div.Scalar, (shifted, high - low), {})
    node: fx.Node = recorder.node(output)
    return node


def formed(rows: Tensor, sample: Sample) -> Tensor:
    """Normalised rows in the form that the file takes; one image if it takes no batch."""
    image: Tensor = _formed(rows, sample, sample.batch is False, _run)
    return image


def example(sample: Sample, count: int) -> list[Tensor]:
    """Random inputs in the form that the file takes."""
    rows, *others = sample.example(count)
    return [formed(rows, sample), *others]


def shaped(file: ModelFile, sample: Sample) -> ModelFile:
    """The file with the card's arguments, as one that takes normalised rows. Raises `Refused` if the card's form is not
    the one that the file declares."""
    file.given = sample.arguments
    if sample.kind == "generator":
        return file
    _agrees(file.shape, sample)
    declared = file.shape is not None and len(file.shape) == 3
    single = file.listed or declared if sample.batch is None else not sample.batch
    if sample.formed or single or file.listed:
        return Shaped(file, sample, single)
    return file


class Shaped:
    """A file that takes images in another form, as one that takes normalised rows. With `single` the file takes one
    image without a batch, or a list of one."""

    def __init__(self, file: ModelFile, sample: Sample, single: bool) -> None:
        self.file, self.sample, self.single = file, sample, single
        self.listed, self.given = file.listed, file.given
        self.dtype, self.stored, self.sampled = file.dtype, file.stored, file.sampled
        self.notes = [*file.notes, *(["the file takes one image without a batch"] if single else [])]
        order = (0, 3, 1, 2) if sample.layout == "nhwc" else (0, 1, 2, 3)
        one = (1,) if single else ()
        shape = None if file.shape is None else (*one, *file.shape)
        self.shape: tuple[int | None, ...] | None = (1, None, None, None) if single or file.listed else None
        if shape is not None:
            self.shape = tuple(shape[place] for place in order)
        places = {place - len(one): dim for dim, place in enumerate(order)}
        self.limits: dict[int, Limit] = {places[dim]: limit for dim, limit in file.limits.items()}

    @property
    def unbounded(self) -> bool:
        """Whether the file has loops that may not end."""
        return self.file.unbounded

    @property
    def counts(self) -> list[int]:
        """Numbers of rows that may be hard-coded in the file."""
        return [1] if self.single else self.file.counts

    @property
    def arguments(self) -> list[str]:
        """The names of the file's inputs."""
        return self.file.arguments

    @property
    def optional(self) -> list[str]:
        """The names of those that have defaults."""
        return self.file.optional

    def weights(self) -> Iterable[Tensor]:
        """Parameters, buffers and constants of the file."""
        return self.file.weights()

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Records the file with the conversions before and after it."""
        rows, *others = inputs
        recorder.path = PIXELS
        image = self._taken(_formed(rows, self.sample, self.single, recorder.op))
        recorder.path = ""
        given = self.file.record([image, *others], recorder)
        recorder.path = PIXELS
        restored = tree_map(lambda leaf: self._restored(leaf, recorder.op), given)
        recorder.path = ""
        return restored

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Runs the file on normalised rows; a single one if it takes one image."""
        rows, *others = inputs
        image = self._taken(_formed(rows, self.sample, self.single, _run))
        given = self.file.run([image, *others])
        return tree_map(lambda leaf: self._restored(leaf, _run), given)

    def to(self, dtype: torch.dtype) -> None:
        """Sets the dtype in which `run` computes."""
        self.file.to(dtype)

    def _taken(self, image: Any) -> Any:  # noqa: ANN401 - a tensor or a box
        return [image] if self.listed else image

    def _restored(self, value: Any, op: _Operation) -> Any:  # noqa: ANN401 - whatever a model returns
        """An output with a batch dimension; an image with its channels first, in RGB order."""
        held = value.value if isinstance(value, Box) else value
        if not isinstance(held, Tensor):
            return value
        shape = tuple(held.shape)
        if self.single and (len(shape) < 2 or shape[0] != 1):
            value, shape = op(aten.unsqueeze.default, (value, 0), {}), (1, *shape)
        if self.sample.kind == "stylizer" and len(shape) == 4:
            if self.sample.layout == "nhwc":
                value = op(aten.permute.default, (value, [0, 3, 1, 2]), {})
            if self.sample.order == "bgr":
                value = op(aten.flip.default, (value, [1]), {})
        return value


def _formed(rows: Any, sample: Sample, single: bool, op: _Operation) -> Any:  # noqa: ANN401 - tensors or boxes
    """Normalised rows in the form that the file takes."""
    image = rows
    if sample.order == "bgr":
        image = op(aten.flip.default, (image, [1]), {})
    if sample.layout == "nhwc":
        turned = op(aten.permute.default, (image, [0, 2, 3, 1]), {})
        image = op(aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
    if single:
        image = op(aten.select.int, (image, 0, 0), {})
    return _integers(op(aten.mul.Scalar, (image, 255), {})) if sample.integers else image


def _integers(image: Any) -> Any:  # noqa: ANN401 - a tensor or a box
    """Values from 0 to 255 as uint8; multiples of 1/255 times 255 round to them exactly in every dtype. While
    recording, only the sample is uint8, as the file's code expects. The graph keeps floating values, so that gradients
    pass."""
    if isinstance(image, Tensor):
        return image.round().to(torch.uint8)
    value = image.value.round().to(torch.uint8)
    return Box(value, image.node, Memory(value, image.node))


def _run(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    return target(*args, **kwargs)


def _agrees(shape: tuple[int | None, ...] | None, sample: Sample) -> None:
    """Raises `Refused` if the shape that a program declares is not of the card's form."""
    if shape is None or len(shape) not in (3, 4):
        return
    reason = f"the model's first input has shape [{', '.join('any' if side is None else str(side) for side in shape)}]"
    if sample.batch is not None and sample.batch != (len(shape) == 4):
        raise Refused(f"{reason}; set input.batch in the card to {str(not sample.batch).lower()}")
    first, last = shape[-3], shape[-1]
    own, other, layout = (first, last, "nhwc") if sample.layout == "nchw" else (last, first, "nchw")
    if own not in (None, sample.channels) and other == sample.channels:
        raise Refused(f'{reason}; set input.layout in the card to "{layout}"')
