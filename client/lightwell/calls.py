"""Calls of several requests as generators without input or output: they yield the next step and are sent its result.
`Client`, `AsyncClient` and `Local` each perform the steps in their own way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, get_args

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


@dataclass(frozen=True)
class _Failed:
    """A request that could not be made."""

    error: Exception


Call = Generator[Begin | Wait | Total | Give, Any, T]
"""The generator of a call; it returns the result."""
OnError = Literal["raise", "return"]
"""What happens to an error of one image among many."""
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


def explain_all(
    images: Iterable[ImageLike], method: Message, concurrency: int, on_error: OnError, options: ExplainOptions
) -> Call[None]:
    """Gives the explanations of images in their order, with at most `concurrency` requests in flight. An error of an
    image is raised at its position, after all earlier explanations; or given there with `on_error` "return", unless it
    is one of `ENDING`."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error is {on_error!r}; give one of {', '.join(map(repr, get_args(OnError)))}")
    yield Total(len(images) if isinstance(images, Sized) else None)
    makes = (partial(explain_request, image, method, **options) for image in images)
    yield from _in_order(makes, concurrency, kept=Exception if on_error == "return" else ())


def sheet(plan: Plan) -> Call[Sheet]:
    """A sheet of many responses, each of which is also given when it arrives. An error takes its cell's position, but
    `ENDING` errors are raised."""
    first: list[Answer] = []
    cells = plan.questions()
    makes = (partial(plan.request, cell) for cell in cells)
    yield from _in_order(makes, CONCURRENCY, first.append, kept=LightwellError)
    cells, answers = plan.cells(first), list[Answer]()

    def take(answer: Answer) -> None:
        if isinstance(answer, Explanation):
            answer.source = cells[len(answers)].row.image  # shared by the cells of a row
        answers.append(answer)

    yield Total(len(cells))
    makes = (partial(plan.request, cell) for cell in cells)
    yield from _in_order(makes, CONCURRENCY, take, kept=LightwellError)
    return plan.sheet(cells, answers)


def _answer(make: Make) -> Call[Explanation]:
    begun = yield Begin(make)
    answer: Explanation = yield Wait(begun)
    return answer


def _in_order(
    makes: Iterator[Make],
    concurrency: int,
    take: Callable[[Any], object] = lambda answer: None,
    kept: type[Exception] | tuple[()] = (),
) -> Call[None]:
    """Takes and gives the responses in order, with at most `concurrency` requests in flight. Errors of the types `kept`
    are treated as responses, except for `ENDING` errors."""
    begun: deque[Any] = deque()
    wrong: Exception | None = None
    while True:
        while wrong is None and len(begun) < concurrency:
            make = None
            try:
                make = next(makes)
                begun.append((yield Begin(make)))
            except StopIteration:
                break
            except Exception as error:
                if make is not None and isinstance(error, kept) and not isinstance(error, ENDING):
                    begun.append(_Failed(error))
                else:
                    wrong = error
        if not begun:
            break
        first = begun.popleft()
        try:
            answer = first.error if isinstance(first, _Failed) else (yield Wait(first))
        except kept as error:
            if isinstance(error, ENDING):
                raise
            answer = error
        take(answer)
        yield Give(answer)
    if wrong is not None:
        raise wrong
