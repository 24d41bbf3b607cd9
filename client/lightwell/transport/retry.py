"""When a broken stream is asked again, and what of it is then new. Without input or output: each client does what the
generator `attempts` yields.

Calls with a single answer need none of this; gRPC itself repeats them, by the service config of `channel`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import grpc

from lightwell.transport.errors import LightwellError
from lightwell.v1 import explain_pb2, synthesize_pb2

FIRST_WAIT, LONGEST_WAIT, GROWTH, JITTER = 0.2, 3.0, 2.0, 0.2
"""Seconds before the second attempt and at most, the factor from one to the next, and the share they vary by."""
TOKENS, TOKEN_RATIO = 20, 0.2
"""Of a retry budget: a failure costs one token, a success gives this share of one back."""

Event = explain_pb2.ExplainStreamResponse | synthesize_pb2.SynthesizeResponse


@dataclass(frozen=True)
class Next:
    """Wait for the next event of the attempt under way, and send it back; None at its end."""


@dataclass(frozen=True)
class Again:
    """Wait for so many seconds, unless the call is cancelled meanwhile, and begin another attempt."""

    seconds: float


@dataclass(frozen=True)
class Give:
    """Give the caller a value."""

    value: Any


class Budget:
    """Keeps a client whose server is down from asking for everything again: while half of the tokens or less are left,
    nothing is. The same rule as gRPC's retry throttling; safe for threads."""

    def __init__(self) -> None:
        self._tokens: float = TOKENS
        self._lock = threading.Lock()

    def fail(self) -> bool:
        """Pays for a failure; whether another attempt may follow."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > TOKENS / 2

    def succeed(self) -> None:
        """Takes the refund of a success."""
        with self._lock:
            self._tokens = min(float(TOKENS), self._tokens + TOKEN_RATIO)


class Way:
    """How far a stream has come, over all of its attempts. A method that asks several times counts its steps each time
    anew."""

    def __init__(self) -> None:
        # Places on the way: number of the pass, step in it.
        self._place = self._furthest = (0, 0)
        self._behind = False

    def is_new(self, step: int) -> bool:
        """Whether a step lies beyond all that came before it."""
        number, last = self._place
        self._place = (number + (step < last), step)
        self._behind = self._behind and self._place <= self._furthest
        if not self._behind:
            self._furthest = self._place
        return not self._behind

    def again(self) -> None:
        """It begins again from the start."""
        self._place, self._behind = (0, 0), True


class Course:
    """How one stream has fared over all of its attempts. `timeout` is in seconds for all of them together."""

    def __init__(self, retries: int, timeout: float | None, budget: Budget) -> None:
        self._retries, self._budget = retries, budget
        self._end = None if timeout is None else time.monotonic() + timeout
        self._failures = 0
        self._way = Way()
        self.finished = False

    def left(self) -> float | None:
        """Seconds for the next attempt; None without a timeout."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def is_new(self, event: Event) -> bool:
        """Whether the caller has not seen this yet: the result, or progress beyond all that was shown."""
        if event.HasField("result"):
            self.finished = True
            self._budget.succeed()
            return True
        progress = event.progress
        step = progress.passes_done if isinstance(progress, explain_pb2.ExplainProgress) else progress.step
        if not self._way.is_new(step):
            return False
        self._failures = 0
        return True

    def pause(self, error: LightwellError) -> float:
        """Seconds to wait before asking again. Raises the error itself if that is not worthwhile: it is no UNAVAILABLE,
        `retries` attempts in a row brought nothing new, the budget is spent, or the time would be over."""
        if error.code is not grpc.StatusCode.UNAVAILABLE or not self._budget.fail() or self._failures >= self._retries:
            raise error
        backoff = min(LONGEST_WAIT, FIRST_WAIT * GROWTH**self._failures) * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
        seconds = max(backoff, error.retry_seconds or 0.0)
        left = self.left()
        if left is not None and seconds >= left:
            raise error
        self._failures += 1
        self._way.again()
        return seconds


def attempts(course: Course) -> Generator[Next | Again | Give, Any, None]:
    """The events of a stream that the caller has not seen yet, over all attempts; the first one is under way."""
    while True:
        try:
            while (event := (yield Next())) is not None:
                if course.is_new(event):
                    yield Give(event)
            return
        except LightwellError as error:
            if course.finished:  # only its status was lost
                return
            seconds = course.pause(error)
        yield Again(seconds)
