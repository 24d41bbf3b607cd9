"""Drives calls of several requests in the synchronous clients `Client` and `Local`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

from lightwell.calls import Begin, Call, Total, Wait
from lightwell.progress import bar
from lightwell.transport.retry import Give

T = TypeVar("T")


class Begun(Protocol):
    """A request in flight."""

    def answer(self) -> Any:  # noqa: ANN401 - of either kind
        """Waits for the answer. Raises `LightwellError`."""

    def cancel(self) -> None:
        """Cancels the request."""


class Waiting(ABC):
    """A client that sends requests and waits for their responses."""

    @abstractmethod
    def _begun(self, request: Any) -> Begun:  # noqa: ANN401 - of either kind
        """Sends a request."""

    def _given(self, steps: Call[T], progress: bool = False) -> Generator[Any, None, T]:
        """The results that a call gives one by one; returns its return value."""
        with _Flight(self._begun, progress) as flight:
            return (yield from driven(steps, flight.perform, lambda: flight.advance()))

    def _result(self, steps: Call[T], progress: bool = False) -> T:
        """The return value of a call."""
        given = self._given(steps, progress)
        while True:
            try:
                next(given)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


class _Flight(ExitStack):
    """The requests in flight of a call, which are cancelled at its end, and its progress bar."""

    def __init__(self, begin: Callable[[Any], Begun], progress: bool) -> None:
        super().__init__()
        self._begin, self._progress = begin, progress
        self._begun: list[Begun] = []
        self.advance: Callable[[], object] = bool
        self.callback(self._cancel)

    def perform(self, step: Begin | Wait | Total) -> Begun | Any:  # noqa: ANN401 - an answer of either kind
        """Performs a step of a call."""
        if isinstance(step, Total):
            self.advance = self.enter_context(bar(step.count, self._progress))
            return None
        if isinstance(step, Begin):
            self._begun.append(self._begin(step.make()))
            return self._begun[-1]
        try:
            answer = step.begun.answer()
        except Exception:
            self._begun.remove(step.begun)  # it is finished; an interrupted one stays in flight
            raise
        self._begun.remove(step.begun)
        return answer

    def _cancel(self) -> None:
        for begun in self._begun:
            begun.cancel()


def driven(
    steps: Generator[Any, Any, T], perform: Callable[[Any], Any], given: Callable[[], object] = bool
) -> Generator[Any, None, T]:
    """Yields the values that a generator gives, and calls `given` after each. `perform` does all other steps, and its
    exceptions are thrown into the generator. Returns what the generator returns."""
    reply: Any = None
    failure: Exception | None = None
    try:
        while True:
            step = steps.send(reply) if failure is None else steps.throw(failure)
            reply = failure = None
            if isinstance(step, Give):
                yield step.value
                given()
                continue
            try:
                reply = perform(step)
            except Exception as error:
                failure = error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()
