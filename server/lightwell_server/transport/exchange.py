"""What a call may take before its request is whole and after it is answered: time, bytes, and how many there are."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor

from lightwell_server.errors import DeadlineExceeded, InvalidArgument, Overloaded
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import WRITTEN, Call
from lightwell_server.transport import parts

STALLED = 5.0
"""Seconds after its deadline that an answer may still take to be read."""
READ = 3
"""How often the bytes of a request are in memory while it is at work: as they came, as a message, and as a device's."""
SMALL = 65_536
"""Bytes of an answer that is not counted: it fits into the buffers of a connection."""
CALLS = 2048
"""Calls that may be open, whoever's they are and however far they are."""
Context = grpc.aio.ServicerContext[Any, Any]


class Gone(Exception):
    """The caller has left, or gRPC itself has refused its request."""


class Stalled(Exception):
    """The caller does not read its answer."""


@dataclass
class Exchange:
    """Bounds of all calls: `received` and `answers` are the bytes that requests and answers may take together. A
    request may have `max_request` bytes and `receive_seconds` to come, each message of an answer `max_answer` bytes and
    `send_seconds` to be read; a caller may have `max_streams` streams open."""

    received: Budget
    answers: Budget
    max_request: int
    max_answer: int
    max_streams: int
    receive_seconds: float
    send_seconds: float
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)
    _calls: Counter[str] = field(default_factory=Counter, init=False)
    _streams: Counter[str] = field(default_factory=Counter, init=False)

    @contextmanager
    def open(self, caller: str, stream: bool) -> Iterator[None]:
        """Counts a call for as long as it is open. Raises `Overloaded` if there are too many."""
        if self._calls.total() >= CALLS or self._calls[caller] >= CALLS // 2:
            raise Overloaded("too many calls are open already; wait for one to end", reason="TOO_MANY_CALLS")
        if stream and self._streams[caller] >= self.max_streams:
            raise Overloaded(
                f"{caller} has {self.max_streams} streams open already; wait for one to end", reason="TOO_MANY_STREAMS"
            )
        counters = (self._calls, self._streams) if stream else (self._calls,)
        for counter in counters:
            counter[caller] += 1
        try:
            yield
        finally:
            for counter in counters:
                counter[caller] -= 1
                if not counter[caller]:
                    del counter[caller]

    async def receive(self, context: Context, message: Descriptor, read: Callable[[bytes], Any]) -> tuple[Any, int]:
        """A call's request, and how many bytes it has. Raises `Gone`, `DeadlineExceeded` for one that does not come,
        `InvalidArgument` for one that is none."""
        try:
            async with asyncio.timeout(self.receive_seconds):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request was not whole within {self.receive_seconds:g} seconds; send less, or faster",
                reason="REQUEST_TOO_SLOW",
            ) from None
        if not isinstance(data, bytes):
            if context.cancelled():
                raise Gone
            raise InvalidArgument(f"no request came; send one {message.full_name}", reason="NO_MESSAGE")
        parts.check(data, message)
        try:
            return read(data), len(data)
        except Exception:
            self.metrics.malformed.labels("no_message").inc()
            raise InvalidArgument(
                f"the request is no {message.full_name}; it was made with other protos, or damaged", reason="NO_MESSAGE"
            ) from None

    async def send(self, context: Context, call: Call, response: Any, write: Callable[[Any], bytes]) -> None:  # noqa: ANN401
        """Sends an answer, or a part of one. Raises `InvalidArgument` for one that is too large, `Overloaded` if the
        answers that others do not read fill the memory, and `Stalled` if this one is not read."""
        size = response.ByteSize()
        if size > self.max_answer:
            raise InvalidArgument(
                f"the answer would have {size / 2**20:.1f} MiB and may have {self.max_answer / 2**20:.1f}; ask for"
                " fewer channels, for FLOAT16, or of a smaller image",
                reason="ANSWER_TOO_LARGE",
            )
        if call.answer is not None:
            call.answer.outgrow(WRITTEN * size)
        if call.answer is not None or size <= SMALL:
            await self._sent(context, write(response))
            return
        async with self.answers.holding(call.caller, WRITTEN * size):
            await self._sent(context, write(response))

    async def _sent(self, context: Context, data: bytes) -> None:
        left = context.time_remaining()
        seconds = self.send_seconds if left is None else min(self.send_seconds, left + STALLED)
        try:
            async with asyncio.timeout(seconds):
                await context.write(data)
        except TimeoutError:
            raise Stalled from None


def cut_off() -> None:
    """Has the stream of the call that is being served reset once its handler has ended: its answer would stay in memory
    for as long as its caller keeps the connection. gRPC has no function for that, and waits for the caller in a task of
    its own, which is all that still holds the call then."""
    serving = asyncio.current_task()
    for task in asyncio.all_tasks():
        waiting: Any = task.get_coro()
        if getattr(waiting, "__name__", "") != "_schedule_rpc_coro":
            continue
        if any(serving in gc.get_referents(scope) for scope in gc.get_referents(waiting)):
            task.cancel()
