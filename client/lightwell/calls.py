"""Calls of several requests as generators without input or output: they yield the next step and are sent its result.
`Client`, `AsyncClient` and `Local` each perform the steps in their own way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from lightwell.images import ImageLike
from lightwell.requests import CONCURRENCY, ExplainOptions, explain_request, others, top_request
from lightwell.results import Explanation
from lightwell.sheets.plan import Plan
from lightwell.sheets.sheet import Sheet
from lightwell.sheets.table import Answer
from lightwell.transport.errors import (
    CancelledCallError,
    ForbiddenError,
    LightwellError,
    UnauthenticatedError,
    UnavailableError,
)
from lightwell.transport.retry import Give

T = TypeVar("T")
Request = Any
"""An ExplainRequest, or a SynthesizeRequest, whose response is the result of the stream."""
Make = Callable[[], Request]
"""Makes a request. It may take long, because it may read and encode an image."""


@dataclass(frozen=True)
class Begin:
    """Make a request and send it; a handle for `Wait` is sent back."""

    make: Make


@dataclass(frozen=True)
class Wait:
    """Wait for the response to a request in flight, and send it back."""

    begun: Any


@dataclass(frozen=True)
class Total:
    """The number of responses to expect, or None if it is not known."""

    count: int | None


Call = Generator[Begin | Wait | Total | Give, Any, T]
"""The generator of a call; it returns the result."""
ENDING = (UnavailableError, UnauthenticatedError, ForbiddenError, CancelledCallError)
"""Errors that every other request would have too: they end a sheet."""


def explain(
    image: ImageLike | None, method: Message, targets: int | None, options: ExplainOptions
) -> Call[Explanation | list[Explanation]]:
    """The explanation of a target, or with `targets` a list of those of the most probable classes."""
    if targets is None:
        return (yield from _answer(partial(explain_request, image, method, **options)))
    found = [(yield from _answer(partial(top_request, image, method, targets, **options)))]
    yield from _in_order(others(found[0], targets, method, **options), CONCURRENCY, found.append)
    return found


def explain_all(images: Iterable[ImageLike], method: Message, concurrency: int, options: ExplainOptions) -> Call[None]:
    """Gives the explanations of images in their order, with at most `concurrency` requests in flight. An error of an
    image is raised at its position, after all earlier explanations."""
    yield Total(len(images) if isinstance(images, Sized) else None)
    yield from _in_order((partial(explain_request, image, method, **options) for image in images), concurrency)


def sheet(plan: Plan) -> Call[Sheet]:
    """A sheet of many responses, each of which is also given when it arrives. An error takes its cell's position, but
    `ENDING` errors are raised."""
    first: list[Answer] = []
    cells = plan.questions()
    yield from _in_order((partial(plan.request, cell) for cell in cells), CONCURRENCY, first.append, kept=True)
    cells, answers = plan.cells(first), list[Answer]()

    def take(answer: Answer) -> None:
        if isinstance(answer, Explanation):
            answer.source = cells[len(answers)].row.image  # shared by the cells of a row
        answers.append(answer)

    yield Total(len(cells))
    yield from _in_order((partial(plan.request, cell) for cell in cells), CONCURRENCY, take, kept=True)
    return plan.sheet(cells, answers)


def _answer(make: Make) -> Call[Explanation]:
    begun = yield Begin(make)
    answer: Explanation = yield Wait(begun)
    return answer


def _in_order(
    makes: Iterator[Make], concurrency: int, take: Callable[[Any], object] = lambda answer: None, kept: bool = False
) -> Call[None]:
    """Takes and gives the responses in order, with at most `concurrency` requests in flight. With `kept` errors are
    treated as responses, except for `ENDING` errors."""
    begun: deque[Any] = deque()
    wrong: Exception | None = None
    while True:
        while wrong is None and len(begun) < concurrency:
            try:
                begun.append((yield Begin(next(makes))))
            except StopIteration:
                break
            except Exception as error:
                wrong = error
        if not begun:
            break
        try:
            answer = yield Wait(begun.popleft())
        except LightwellError as error:
            if not kept or isinstance(error, ENDING):
                raise
            answer = error
        take(answer)
        yield Give(answer)
    if wrong is not None:
        raise wrong
