"""When a broken stream is requested again, and which of its events are new. Without input or output: each client
performs the steps that the generator `attempts` yields.

Calls with a single response do not need this; gRPC itself retries them, by the service config of `channel`.
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
"""Seconds before the second attempt and at most between attempts, the growth factor, and the relative jitter."""
TOKENS, TOKEN_RATIO = 20, 0.2
"""The tokens of a retry budget, and what a success returns; a failure costs one token."""

Event = explain_pb2.ExplainStreamResponse | synthesize_pb2.SynthesizeResponse


@dataclass(frozen=True)
class Next:
    """Wait for the next event of the current attempt, and send it back; None at its end."""


@dataclass(frozen=True)
class Again:
    """Wait for `seconds`, unless the call is cancelled meanwhile, and begin another attempt."""

    seconds: float


@dataclass(frozen=True)
class Give:
    """Give the caller a value."""

    value: Any


class Budget:
    """Limits the retries of a client whose server is down: none is made while half of the tokens or less are left, as
    in gRPC's retry throttling. Safe for threads."""

    def __init__(self) -> None:
        self._tokens: float = TOKENS
        self._lock = threading.Lock()

    def fail(self) -> bool:
        """Takes a token for a failure. Returns whether another attempt may follow."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > TOKENS / 2

    def succeed(self) -> None:
        """Returns the refund of a success."""
        with self._lock:
            self._tokens = min(float(TOKENS), self._tokens + TOKEN_RATIO)


class Way:
    """The progress of a stream over all of its attempts. A method with several passes counts the steps of each from
    0."""

    def __init__(self) -> None:
        # Positions in the progress: number of the pass, step in it.
        self._place = self._furthest = (0, 0)
        self._behind = False

    def is_new(self, step: int) -> bool:
        """Whether a step is beyond all earlier ones."""
        number, last = self._place
        self._place = (number + (step < last), step)
        self._behind = self._behind and self._place <= self._furthest
        if not self._behind:
            self._furthest = self._place
        return not self._behind

    def again(self) -> None:
        """Notes that the stream begins again from the start."""
        self._place, self._behind = (0, 0), True


class Course:
    """The state of one stream over all of its attempts. `timeout` is in seconds for all of them together."""

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
        """Whether the caller has not seen this event yet: the result, or progress beyond all that was reported."""
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
        """Seconds to wait before the next attempt. Raises the error itself if there is none: it is not UNAVAILABLE,
        `retries` attempts in a row gave nothing new, the budget is spent, or the timeout would pass."""
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
    """The events of a stream that the caller has not seen yet, over all attempts. The first attempt has begun."""
    while True:
        try:
            while (event := (yield Next())) is not None:
                if course.is_new(event):
                    yield Give(event)
            return
        except LightwellError as error:
            if course.finished:  # only the status after the result was lost
                return
            seconds = course.pause(error)
        yield Again(seconds)
