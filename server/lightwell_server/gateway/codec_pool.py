"""Decoding and drawing beside the event loop: within a budget of memory, long work apart from short, and stopped when
nobody waits for it any more."""

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
"""Seconds from which on work is long. Of that half of the processors take care, so that short work never waits for
it."""
SHORT = 4
"""Short pieces of work at a time, at least."""
RESERVE, SMALL = 1 / 8, 1 / 32
"""Of the memory for pictures, what is kept for small ones, and up to where they are small: none of them waits for a
large one, which may take most of it."""


class CodecPool:
    """Runs functions on threads, for one event loop. `memory` are the bytes that pictures may take together, `largest`
    those that one request's may."""

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
        """Holds so many bytes of memory for a caller's pictures. Raises `Overloaded` if there is no room for long."""
        return (self._reserve if size <= self._small else self._large).holding(caller, size)

    async def run(self, name: str, seconds: float, function: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Runs a function that takes about so many seconds; its time is noted under that name. `stop` is set when its
        caller leaves, so that it ends soon: until it has, its thread is not another's."""
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
                # A thread ends at its own time; what it raises then is nobody's any more.
                await asyncio.gather(asyncio.wrap_future(work), return_exceptions=True)
                raise
            finally:
                self._observe(call, began)

    def run_inline(self, name: str, function: Callable[[], T]) -> T:
        """Runs a function that takes less than a thread's turn would; its time is noted as in `run`."""
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
    """Runs a function that takes much memory, and gives back what it leaves."""
    try:
        return function()
    finally:
        give_back()
