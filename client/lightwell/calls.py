"""Calls that take several requests, written once and without input or output: generators that yield what is to be done
next and are sent what came of it. `Client`, `AsyncClient` and `Local` each do it in their own way."""

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
"""An ExplainRequest, or a SynthesizeRequest, of whose stream the result is the answer."""
Make = Callable[[], Request]
"""Makes a request; reading and encoding an image may take long."""


@dataclass(frozen=True)
class Begin:
    """Make a request and send it; what it is called until it is answered is sent back."""

    make: Make


@dataclass(frozen=True)
class Wait:
    """Wait for the answer to what was begun, and send it back."""

    begun: Any


@dataclass(frozen=True)
class Total:
    """So many answers will be given, as far as is known."""

    count: int | None


Call = Generator[Begin | Wait | Total | Give, Any, T]
"""What a call yields; it returns its result."""
ENDING = (UnavailableError, UnauthenticatedError, ForbiddenError, CancelledCallError)
"""Errors that no other request would be spared: they end a sheet."""


def explain(
    image: ImageLike | None, method: Message, targets: int | None, options: ExplainOptions
) -> Call[Explanation | list[Explanation]]:
    """The explanation of a target, or with `targets` a list of those of the classes of the highest scores."""
    if targets is None:
        return (yield from _answer(partial(explain_request, image, method, **options)))
    found = [(yield from _answer(partial(top_request, image, method, targets, **options)))]
    requests = others(found[0], targets, method, **options)
    yield from _in_order((partial(_same, request) for request in requests), CONCURRENCY, found.append)
    return found


def explain_all(images: Iterable[ImageLike], method: Message, concurrency: int, options: ExplainOptions) -> Call[None]:
    """Gives the explanation of each image in their order, with at most `concurrency` requests in flight. What is wrong
    with an image is raised when its turn comes: the answers before it are not lost."""
    yield Total(len(images) if isinstance(images, Sized) else None)
    yield from _in_order((partial(explain_request, image, method, **options) for image in images), concurrency)


def sheet(plan: Plan) -> Call[Sheet]:
    """A sheet of many answers, each of which is given as it comes. What fails is told in its place; errors that no cell
    would be spared are raised."""
    first: list[Answer] = []
    cells = plan.questions()
    yield from _in_order((partial(plan.request, cell) for cell in cells), CONCURRENCY, first.append, kept=True)
    cells, answers = plan.cells(first), list[Answer]()

    def take(answer: Answer) -> None:
        if isinstance(answer, Explanation):
            answer.source = cells[len(answers)].row.image  # held once for a row, and not by each of its cells
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
    """Takes and gives the answers in order, with so many requests in flight. Errors are answers if they are `kept`, but
    for those that no other request would be spared."""
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


def _same(request: Request) -> Request:
    return request
