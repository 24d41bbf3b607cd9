"""Decoding and drawing on other threads than the event loop's: within a memory budget, with long tasks separate from
short ones, and stopped when the caller has disconnected."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from lightwell_server import resources
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.requests.budget import Budget, Hold
from lightwell_server.requests.call import Call, current
from lightwell_server.threads import give_back, single_threaded_pool

T = TypeVar("T")

LONG = 0.05
"""Tasks with more predicted seconds are long. They run on at most half of the processors, so that short tasks never
wait for them."""
SHORT = 4
"""Least number of threads for short tasks."""
RESERVE, SMALL = 1 / 8, 1 / 32
"""Shares of the memory for pictures: what is reserved for small ones, and up to which size a request's are small. Small
ones never wait for large ones, which may take most of the memory."""


class CodecPool:
    """Runs functions on threads, for one event loop. `memory` is the number of bytes that pictures may take together,
    `largest` that of one request."""

    def __init__(self, memory: int, metrics: GatewayMetrics | None = None) -> None:
        self._metrics = metrics or GatewayMetrics()
        processors = resources.processors()
        short, long = max(SHORT, processors), max(1, processors // 2)
        self.largest = memory * (1 - RESERVE)
        self._small, self._large = memory * SMALL, Budget(self.largest, "the pictures")
        self._reserve = Budget(memory * RESERVE, "the small pictures")
        self._short, self._long = Budget(short, "the short decodings"), Budget(long, "the long decodings")
        self._threads = single_threaded_pool(short + long, "codec")

    def room(self, caller: str, size: float) -> AbstractAsyncContextManager[Hold]:
        """Holds `size` bytes of memory for a caller's pictures. Raises `Overloaded` if there is no room within the
        timeout."""
        return (self._reserve if size <= self._small else self._large).holding(caller, size)

    async def run(self, name: str, seconds: float, function: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Runs a function that takes about `seconds`, and records its time as `name`. `stop` is set when the caller
        disconnects, so that it ends soon. Until then its thread stays occupied."""
        call = current.get()
        long, began = seconds >= LONG, len(call.spans)
        lane = self._long if long else self._short
        async with lane.holding(call.caller, 1, seconds, patience=None):
            timed = functools.partial(call.timed, name, functools.partial(_large, function) if long else function)
            work = self._threads.submit(timed)
            try:
                return await asyncio.wrap_future(work)
            except asyncio.CancelledError:
                if stop is not None:
                    stop.set()
                # The thread ends by itself; its exceptions are ignored.
                await asyncio.gather(asyncio.wrap_future(work), return_exceptions=True)
                raise
            finally:
                self._observe(call, began)

    def run_inline(self, name: str, function: Callable[[], T]) -> T:
        """Runs a function that takes less time than a switch of threads; its time is recorded as in `run`."""
        call = current.get()
        began = len(call.spans)
        try:
            return call.timed(name, function)
        finally:
            self._observe(call, began)

    def _observe(self, call: Call, began: int) -> None:
        for span in call.spans[began:]:
            self._metrics.codec_seconds.labels(span.name).observe(span.seconds)


def _large(function: Callable[[], T]) -> T:
    """Runs a function that takes much memory, and then returns free memory to the system."""
    try:
        return function()
    finally:
        give_back()
