"""The queue of requests in front of the workers: which request goes to which worker, and when."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightwell_server.engine.scheduler import AGEING
from lightwell_server.errors import Unavailable
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.pool.slot import WorkerSlot
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.models import Key
from lightwell_server.spans import Span

GONE = 30.0
"""Requests do not wait for a worker if there has been none for this many seconds."""


@dataclass(order=True)
class _Waiting:
    """A request in the queue. Suspects go first; the requests of one caller are ordered by cost and waiting time."""

    rank: tuple[bool, float]
    number: int
    admitted: AdmittedRequest = field(compare=False)
    keys: frozenset[Key] = field(compare=False)
    slot: asyncio.Future[WorkerSlot] = field(compare=False)


class Dispatcher:
    """One queue for all workers: each of `slots` has at most `most` requests in progress."""

    def __init__(self, most: int, metrics: GatewayMetrics) -> None:
        self.slots: Sequence[WorkerSlot] = ()
        self._most = most
        self._queue: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._answering = time.monotonic()
        self._metrics = metrics
        metrics.waiting_jobs.set_function(lambda: len(self._queue))

    @property
    def workers(self) -> int:
        """How many workers have a model loaded and serve."""
        return sum(bool(slot.models) for slot in self.slots)

    async def fail_waiting(self) -> None:
        """Fails the queued requests while no worker is expected back."""
        while True:
            await asyncio.sleep(1)
            if self.gone:
                for waiting in [waiting for waiting in self._queue if not waiting.slot.done()]:
                    self._give_up(waiting, "no worker answers")

    @property
    def gone(self) -> bool:
        """Whether there has been no worker for so long that requests do not wait for one."""
        return time.monotonic() - self._answering > GONE

    def expect(self) -> None:
        """Makes the next `change` wait for what happens from now on."""
        self._changed.clear()

    async def change(self) -> None:
        """Waits until something has changed, or for a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._changed.wait()

    async def acquire(self, admitted: AdmittedRequest, keys: frozenset[Key]) -> WorkerSlot:
        """Waits in the queue for a worker that has all the models of `keys`."""
        began = time.monotonic()
        rank = not admitted.suspect, admitted.price.cost + AGEING * admitted.began
        waiting = _Waiting(rank, admitted.number, admitted, keys, asyncio.get_running_loop().create_future())
        bisect.insort(self._queue, waiting)
        self.assign()
        try:
            return await waiting.slot
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif waiting.slot.exception() is None:  # it was assigned at the same moment
                waiting.slot.result().leave(admitted, answered=False)
                self.assign()
            raise
        finally:
            now = time.monotonic()
            admitted.waited += now - began
            self._metrics.waiting_seconds.labels(admitted.call.method).observe(now - began)
            admitted.call.spans.append(Span("wait", began, now))

    def assign(self) -> None:
        """Assigns queued requests, in order, while there is room."""
        self._changed.set()
        if self.workers:
            self._answering = math.inf
        elif self._answering == math.inf:
            self._answering = time.monotonic()
        while self._call_up():
            pass

    def _call_up(self) -> bool:
        """Assigns the first request for which there is room; returns whether there was one. For a suspect without room
        one worker takes no further requests: otherwise those behind the suspect would keep all workers busy."""
        if all(len(slot.requests) >= self._most for slot in self.slots):
            return False
        kept: WorkerSlot | None = None
        vain = set[tuple[frozenset[Key], str, bool]]()
        for waiting in self._in_order():
            admitted = waiting.admitted
            alike = waiting.keys, admitted.call.caller, admitted.price.long
            if waiting.slot.done() or alike in vain:  # a cancelled one leaves the queue a moment later
                continue
            if all(slot.ready and not waiting.keys <= slot.models for slot in self.slots):
                self._give_up(waiting, "no worker could load it when it was started")
                continue
            able = [slot for slot in self.slots if slot is not kept and self._room(slot, waiting)]
            if able:
                slot = min(able, key=lambda slot: slot.backlog)
                self._queue.remove(waiting)
                slot.enter(admitted)
                waiting.slot.set_result(slot)
                return True
            if not admitted.suspect:
                vain.add(alike)
            elif kept is None:
                has = [slot for slot in self.slots if waiting.keys <= slot.models]
                kept = min(has, key=lambda slot: (not slot.alone, slot.backlog), default=None)
        return False

    def _in_order(self) -> list[_Waiting]:
        """The queue: suspects first, then callers by least predicted work in progress, each caller's requests by
        rank."""
        work = defaultdict[str, float](float)
        for slot in self.slots:
            for admitted in slot.requests.values():
                work[admitted.call.caller] += admitted.left
        return sorted(self._queue, key=lambda waiting: (waiting.rank[0], work[waiting.admitted.call.caller]))

    def _give_up(self, waiting: _Waiting, why: str) -> None:
        """Fails a queued request."""
        self._queue.remove(waiting)
        names = " and ".join(sorted(f"{name}@{version}" for name, version in waiting.keys))
        sentence = f"{names} cannot be asked now: {why}; the log says more"
        waiting.slot.set_exception(Unavailable(sentence, reason="NO_WORKER", retry_seconds=GONE))

    def _room(self, slot: WorkerSlot, waiting: _Waiting) -> bool:
        admitted = waiting.admitted
        if not waiting.keys <= slot.models:
            return False
        if admitted.suspect:
            return not slot.requests
        if slot.alone or len(slot.requests) >= self._most:
            return False
        # One caller may have three quarters of a worker's requests: others find room at once.
        own = sum(other.call.caller == admitted.call.caller for other in slot.requests.values())
        if own >= max(1, self._most * 3 // 4):
            return False
        # Half of the requests may be long: short ones that overtake them always find room.
        return not admitted.price.long or slot.long < self._most // 2
