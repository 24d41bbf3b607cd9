"""The requests for the cells of a sheet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from google.protobuf.message import Message
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import UnidentifiedImageError

from lightwell import parameters
from lightwell.images import ImageLike, to_message
from lightwell.requests import TargetLike, explain_request, explains, name_of, synthesize_request
from lightwell.results import Explanation
from lightwell.sheets.sheet import Sheet
from lightwell.sheets.table import Answer, Column, Row
from lightwell.v1 import explain_pb2
from lightwell.v1 import types_pb2 as types

Sweep = Mapping[str, Sequence[Any]]
"""The values of each swept parameter, as in the methods' messages or as text on the command line."""


class SheetOptions(TypedDict, total=False):
    """The options that all cells of a sheet share; each as in `Options`."""

    version: str
    readout: str
    fit: str
    inputs: Mapping[str, NDArray[Any]]
    seed: int
    reproducible: bool


class Cell(NamedTuple):
    """One request."""

    row: Row
    column: Column


class Plan:
    """The cells of a sheet. `targets` are several, or the number of the most probable classes. Raises `Usage` for an
    invalid sweep, OSError for an image that cannot be read, and ValueError for one that cannot be shown."""

    def __init__(
        self,
        images: ImageLike | Sequence[ImageLike],
        methods: Message | Sequence[Message],
        targets: int | Sequence[TargetLike],
        models: str | Sequence[str],
        sweep: Sweep,
        options: SheetOptions,
    ) -> None:
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        self.options: dict[str, Any] = {**options}
        self.columns = columns([methods] if isinstance(methods, Message) else methods, sweep)
        fit = options.get("fit", "card")
        named = [(name, _read(image, fit, name)) for image, name in zip(given, _names(given), strict=True)]
        self._pairs = list(product(named, [models] if isinstance(models, str) else models))
        self._targets = targets

    def questions(self) -> list[Cell]:
        """The requests that come first: they find the most probable classes, if these are the targets."""
        if not isinstance(self._targets, int):
            return []
        column = Column(explain_pb2.Predictions(k=self._targets))
        return [Cell(Row(name, image, model, None), column) for (name, image), model in self._pairs]

    def cells(self, answers: Sequence[Answer]) -> list[Cell]:
        """All cells, row by row; `answers` are the responses to the questions."""
        targets = [self._targets] * len(self._pairs) if not isinstance(self._targets, int) else map(_classes, answers)
        return [
            Cell(Row(name, image, model, target), column)
            for ((name, image), model), several in zip(self._pairs, targets, strict=True)
            for target in several
            for column in self.columns
        ]

    def request(self, cell: Cell) -> Any:  # noqa: ANN401 - of either kind
        """The request of a cell."""
        row, method = cell.row, cell.column.method
        given: Any = {"model": row.model, "target": row.target, **self.options}
        if explains(method):
            return explain_request(row.image, method, **given)
        return synthesize_request(method, image=row.image, **given)

    def sheet(self, cells: Sequence[Cell], answers: Sequence[Answer]) -> Sheet:
        """The sheet with the responses in their cells."""
        starts, width = range(0, len(cells), len(self.columns)), len(self.columns)
        return Sheet([cells[i].row for i in starts], self.columns, [list(answers[i : i + width]) for i in starts])


def columns(methods: Iterable[Message], sweep: Sweep) -> list[Column]:
    """The methods in their order, each with every combination of the swept parameters that it has."""
    methods = list(methods)
    every = {field for method in methods for field in method.DESCRIPTOR.fields_by_name}
    for name in sweep:
        if name not in every:
            raise parameters.Usage(f"no method has a parameter {name!r}; {parameters.nearest(name, sorted(every))}")
    return [column for method in methods for column in _swept(method, sweep)]


def _swept(method: Message, sweep: Sweep) -> Iterator[Column]:
    own = [name for name in sweep if name in method.DESCRIPTOR.fields_by_name]
    for chosen in product(*(enumerate(sweep[name], 1) for name in own)):
        made = type(method)()
        made.CopyFrom(method)
        words = []
        for name, (number, value) in zip(own, chosen, strict=True):
            parameters.assign(made, name_of(method), name, value)
            if name not in parameters.described(made):
                words.append(f"{name}={Path(value).name if isinstance(value, str) else number}")
        yield Column(made, (*(f"{name}={word}" for name, word in parameters.described(made).items()), *words))


def _classes(answer: Answer) -> list[TargetLike]:
    """The predicted classes. If there are none, None: the cells' requests then report the reason."""
    found = answer.predictions if isinstance(answer, Explanation) else []
    return [prediction.class_index for prediction in found] or [None]


def _names(images: Iterable[ImageLike]) -> list[str]:
    return [Path(image).name if isinstance(image, str | Path) else f"image {i}" for i, image in enumerate(images, 1)]


def _read(image: ImageLike, fit: str, name: str) -> types.Image:
    """Reads an image. Raises ValueError if it cannot be opened, because a sheet shows its images."""
    message = to_message(image, fit)
    try:
        if message.encoded:
            Pil.open(io.BytesIO(message.encoded))  # reads only the header
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that can be read") from None
    return message
