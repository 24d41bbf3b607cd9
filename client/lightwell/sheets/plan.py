"""Which requests the cells of a sheet are, and how they are asked."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from google.protobuf.message import Message
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import UnidentifiedImageError

from lightwell import parameters
from lightwell.images import ImageLike, to_message
from lightwell.progress import bar
from lightwell.requests import CONCURRENCY, TargetLike, explains, name_of
from lightwell.results import Explanation
from lightwell.sheets.sheet import Sheet
from lightwell.sheets.table import Answer, Column, Row
from lightwell.transport.errors import (
    CancelledCallError,
    ForbiddenError,
    LightwellError,
    UnauthenticatedError,
    UnavailableError,
)
from lightwell.v1 import explain_pb2
from lightwell.v1 import types_pb2 as types

ENDING = (UnavailableError, UnauthenticatedError, ForbiddenError, CancelledCallError)
"""Errors that no other cell would be spared: they end the sheet."""

Sweep = Mapping[str, Sequence[Any]]
"""Parameters with the values that each takes in turn: as the methods' messages take them, or words as on a command
line."""


class SheetOptions(TypedDict, total=False):
    """What all cells of a sheet share; each as in `Options`."""

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
    """The cells of a sheet. `targets` are several, or how many classes of the highest scores. Raises `Usage` for a
    sweep that makes no sense, and OSError for an image that cannot be read."""

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
        self.options = options
        self.columns = columns([methods] if isinstance(methods, Message) else methods, sweep)
        fit = options.get("fit", "card")
        named = [(name, _read(image, fit, name)) for image, name in zip(given, _names(given), strict=True)]
        self._pairs = list(product(named, [models] if isinstance(models, str) else models))
        self._targets = targets

    def questions(self) -> list[Cell]:
        """What has to be asked first: the classes of the highest scores, if these are the targets."""
        if not isinstance(self._targets, int):
            return []
        column = Column(explain_pb2.Predictions(k=self._targets))
        return [Cell(Row(name, image, model, None), column) for (name, image), model in self._pairs]

    def cells(self, answers: Sequence[Answer]) -> list[Cell]:
        """All cells, row by row; `answers` are the answers to the questions."""
        targets = [self._targets] * len(self._pairs) if not isinstance(self._targets, int) else map(_classes, answers)
        return [
            Cell(Row(name, image, model, target), column)
            for ((name, image), model), several in zip(self._pairs, targets, strict=True)
            for target in several
            for column in self.columns
        ]

    def sheet(self, cells: Sequence[Cell], answers: Sequence[Answer]) -> Sheet:
        """The answers in their places."""
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


def ask_all(plan: Plan, asker: Any, progress: bool) -> Sheet:  # noqa: ANN401 - as for `asked`
    """Asks for all cells, many at a time, and waits for them. Raises the errors that are no cell's own."""
    cells = plan.cells(list(_answers(plan, plan.questions(), asker)))
    answers = []
    with bar(len(cells), progress) as advance:
        for answer in _answers(plan, cells, asker):
            answers.append(answer)
            advance()
    return plan.sheet(cells, answers)


def _answers(plan: Plan, cells: Sequence[Cell], asker: Any) -> Iterator[Answer]:  # noqa: ANN401 - as for `asked`
    """In the order of the cells."""
    pool = ThreadPoolExecutor(CONCURRENCY)
    try:
        yield from pool.map(lambda cell: _answer(cell, asker, plan.options), cells)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who interrupts need not wait for what is begun


def _answer(cell: Cell, asker: Any, options: SheetOptions) -> Answer:  # noqa: ANN401 - as for `asked`
    try:
        return settled(cell, asked(cell, asker, options))
    except LightwellError as error:
        return settled(cell, error)


def asked(cell: Cell, asker: Any, options: SheetOptions) -> Any:  # noqa: ANN401 - a client of any kind
    """What the asker answers: a result, or of an `AsyncClient` what is awaited for one."""
    row, method = cell.row, cell.column.method
    given = {"model": row.model, "target": row.target, **options}
    if explains(method):
        return asker.explain(row.image, method, **given)
    return asker.synthesize(method, image=row.image, **given).result()


def settled(cell: Cell, answer: Answer) -> Answer:
    """What a cell holds in the end. Raises an error that no other cell would be spared."""
    if isinstance(answer, ENDING):
        raise answer
    if isinstance(answer, Explanation):
        answer.source = cell.row.image  # held once for a row, and not by each of its cells
    return answer


def _classes(answer: Answer) -> list[TargetLike]:
    """The classes that were told; if none were, the cells will tell why."""
    found = answer.predictions if isinstance(answer, Explanation) else []
    return [prediction.class_index for prediction in found] or [None]


def _names(images: Iterable[ImageLike]) -> list[str]:
    return [Path(image).name if isinstance(image, str | Path) else f"image {i}" for i, image in enumerate(images, 1)]


def _read(image: ImageLike, fit: str, name: str) -> types.Image:
    """Raises ValueError for a file that cannot be shown: a sheet shows its images."""
    message = to_message(image, fit)
    try:
        if message.encoded:
            Pil.open(io.BytesIO(message.encoded))  # looks at the header alone
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that can be read") from None
    return message
