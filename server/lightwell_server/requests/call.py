"""One call: its name in logs and traces, who makes it, what it asks, and where its time goes."""

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
"""`explain` lets ask about models; `admin` lets look into the server itself, stop jobs, load and unload models."""

WRITTEN = 3
"""How often the bytes of an answer are in memory while it is sent: as a message, written, and as gRPC's."""
LONGEST = 128
"""Characters of a request's name that a caller may choose."""


@dataclass
class Call:
    """`method` and `model` are set when they are known to exist; `code` and `reason` when the call is over. `answer` is
    the room that is held for what it will be answered, if that is known before; what is entered in `kept` is held until
    its last message is sent."""

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
        """Runs a function and notes its time; safe from any thread."""
        began = time.monotonic()
        try:
            return function()
        finally:
            self.spans.append(Span(name, began, time.monotonic()))

    def spent(self, name: str) -> float:
        """The seconds of all spans of that name."""
        return sum(span.seconds for span in self.spans if span.name == name)


current: ContextVar[Call] = ContextVar("call")
"""The call that is being answered."""


def named(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
    """A request's name, its caller's or a new one, and its `traceparent`, from what came along with it."""
    given = {key: value for key, value in metadata if isinstance(value, str)}
    wanted = given.get("x-request-id", "")
    proper = 0 < len(wanted) <= LONGEST and wanted.isascii() and wanted.isprintable()
    return wanted if proper else uuid.uuid4().hex, given.get("traceparent", "")
