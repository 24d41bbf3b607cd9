"""Between rows and what a file takes of them. Rows are images [n, channels, height, width] with values in [0, 1]; a
file may want them normalised, as luminance, with blue in front, with the channels last, as integers of 8 bits, or one
image by itself."""

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
    """An image's values in [0, 1]; anything else as it is."""
    low, high = sample.range
    if sample.kind != "classifier" and sample.range != (0.0, 1.0):
        recorder.path = PIXELS
        shifted = recorder.op(aten.sub.Scalar, (output, low), {})
        output = recorder.op(aten.div.Scalar, (shifted, high - low), {})
    node: fx.Node = recorder.node(output)
    return node


def formed(rows: Tensor, sample: Sample) -> Tensor:
    """Normalised rows in the form that the file takes them in: one image of them, if it takes one."""
    image: Tensor = _formed(rows, sample, sample.batch is False, _run)
    return image


def example(sample: Sample, count: int) -> list[Tensor]:
    """Random inputs as the file takes them."""
    rows, *others = sample.example(count)
    return [formed(rows, sample), *others]


def shaped(file: ModelFile, sample: Sample) -> ModelFile:
    """The file with the card's arguments, as one that takes normalised rows, whatever form it wants them in. Raises
    `Refused` where the card says another form than the file declares."""
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
    """A file and the form in which it takes images, seen as one that takes normalised rows: with `single` one image
    without a batch, or a list of one."""

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
        """Whether the file has loops that may have no end."""
        return self.file.unbounded

    @property
    def counts(self) -> list[int]:
        """Numbers of rows that may be written into it for good."""
        return [1] if self.single else self.file.counts

    @property
    def arguments(self) -> list[str]:
        """The names of the file's inputs."""
        return self.file.arguments

    @property
    def optional(self) -> list[str]:
        """Those of them that have defaults."""
        return self.file.optional

    def weights(self) -> Iterable[Tensor]:
        """Parameters, buffers and constants of the file."""
        return self.file.weights()

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Records the file with what stands in front of it and behind it."""
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
        """Runs the file on normalised rows, of which there is one if it takes one."""
        rows, *others = inputs
        image = self._taken(_formed(rows, self.sample, self.single, _run))
        given = self.file.run([image, *others])
        return tree_map(lambda leaf: self._restored(leaf, _run), given)

    def to(self, dtype: torch.dtype) -> None:
        """From now on `run` computes in another type of numbers."""
        self.file.to(dtype)

    def _taken(self, image: Any) -> Any:  # noqa: ANN401 - a tensor or a box
        return [image] if self.listed else image

    def _restored(self, value: Any, op: _Operation) -> Any:  # noqa: ANN401 - whatever a model returns
        """An output with its row in front; an image with its channels in front, red the first."""
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
    """What the file takes of normalised rows."""
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
    """Values of 0 to 255, which shares of them times 255 are exactly in every type, as integers of 8 bits. A graph has
    floating ones instead, which a gradient passes: for the file's code they have the type that it is written for."""
    if isinstance(image, Tensor):
        return image.round().to(torch.uint8)
    value = image.value.round().to(torch.uint8)
    return Box(value, image.node, Memory(value, image.node))


def _run(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    return target(*args, **kwargs)


def _agrees(shape: tuple[int | None, ...] | None, sample: Sample) -> None:
    """What a program declares must be of the card's form."""
    if shape is None or len(shape) not in (3, 4):
        return
    reason = f"the model's first input has shape [{', '.join('any' if side is None else str(side) for side in shape)}]"
    if sample.batch is not None and sample.batch != (len(shape) == 4):
        raise Refused(f"{reason}; set input.batch in the card to {str(not sample.batch).lower()}")
    first, last = shape[-3], shape[-1]
    own, other, layout = (first, last, "nhwc") if sample.layout == "nchw" else (last, first, "nchw")
    if own not in (None, sample.channels) and other == sample.channels:
        raise Refused(f'{reason}; set input.layout in the card to "{layout}"')
