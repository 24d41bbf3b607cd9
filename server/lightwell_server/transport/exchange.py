"""Limits of calls while requests are received and answers are sent: time, bytes, and the number of calls."""

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
"""Seconds after a call's deadline within which its answer may still be read."""
READ = 3
"""Copies of a request in memory while it is in progress: its bytes, the message, and the message for a device."""
SMALL = 65_536
"""Smaller answers are not counted: they fit into the buffers of a connection."""
CALLS = 2048
"""Calls that may be open in total, in any state."""
Context = grpc.aio.ServicerContext[Any, Any]


class Gone(Exception):
    """The caller has disconnected, or gRPC itself has rejected its request."""


class Stalled(Exception):
    """The caller does not read its answer."""


@dataclass
class Exchange:
    """Limits of all calls: `received` and `answers` are the memory budgets of requests and answers in bytes. A request
    may have `max_request` bytes and take `receive_seconds` to arrive. Each message of an answer may have `max_answer`
    bytes and take `send_seconds` to be read. A caller may have `max_streams` streams open."""

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
        """Counts a call while it is open. Raises `Overloaded` if there are too many."""
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
        """A call's request and its size in bytes. Raises `Gone`, `DeadlineExceeded` if it does not arrive in time, and
        `InvalidArgument` if it cannot be parsed."""
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
        """Sends an answer, or a part of one. Raises `InvalidArgument` if it is too large, `Overloaded` if unread
        answers fill the memory, and `Stalled` if this one is not read."""
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
    """Resets the stream of the current call once its handler has ended. Otherwise its answer would stay in memory for
    as long as its caller keeps the connection. gRPC has no function for that: one of its tasks waits for the caller,
    and is then the only reference to the call. That task is cancelled."""
    serving = asyncio.current_task()
    for task in asyncio.all_tasks():
        waiting: Any = task.get_coro()
        if getattr(waiting, "__name__", "") != "_schedule_rpc_coro":
            continue
        if any(serving in gc.get_referents(scope) for scope in gc.get_referents(waiting)):
            task.cancel()
