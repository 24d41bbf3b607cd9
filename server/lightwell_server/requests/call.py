"""One call: its id in logs and traces, its caller, what it requests, and where its time goes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from lightwell_server.requests.budget import Hold
from lightwell_server.spans import Span

T = TypeVar("T")
Right = Literal["explain", "admin"]
"""`explain` gives access to models; `admin` to the server's state, and to stopping jobs and loading and unloading
models."""

WRITTEN = 3
"""Copies of an answer in memory while it is sent: the message, its bytes, and gRPC's buffer."""
LONGEST = 128
"""Longest request id that a caller may choose, in characters."""


@dataclass
class Call:
    """`method` and `model` are set when they are known to exist; `code` and `reason` when the call is over. `answer` is
    the memory held for its answer, if its size is known beforehand. Contexts entered in `kept` are held until its last
    message is sent."""

    id: str
    rpc: str
    caller: str = ""
    method: str = ""
    model: str = ""
    traceparent: str = ""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    code: str = "OK"
    reason: str = ""
    answer: Hold | None = None
    kept: AsyncExitStack = field(default_factory=AsyncExitStack)
    spans: list[Span] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    def timed(self, name: str, function: Callable[[], T]) -> T:
        """Runs a function and records its time; safe from any thread."""
        began = time.monotonic()
        try:
            return function()
        finally:
            self.spans.append(Span(name, began, time.monotonic()))

    def spent(self, name: str) -> float:
        """The seconds of all spans of that name."""
        return sum(span.seconds for span in self.spans if span.name == name)


current: ContextVar[Call] = ContextVar("call")
"""The call that is being served."""


def named(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
    """A request's id, the caller's or a new one, and its `traceparent`, both from the metadata."""
    given = {key: value for key, value in metadata if isinstance(value, str)}
    wanted = given.get("x-request-id", "")
    proper = 0 < len(wanted) <= LONGEST and wanted.isascii() and wanted.isprintable()
    return wanted if proper else uuid.uuid4().hex, given.get("traceparent", "")
