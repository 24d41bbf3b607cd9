"""The line of requests in front of the workers: who is called up, to which worker, and when."""

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
from lightwell_server.pool.slot import Key, WorkerSlot
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.call import Moment

GONE = 30.0
"""Seconds without a worker from which on requests do not wait for one."""


@dataclass(order=True)
class _Waiting:
    """A request in line: suspects first, then among its caller's by what it costs, and by how long it waits."""

    rank: tuple[bool, float]
    number: int
    case: AdmittedRequest = field(compare=False)
    key: Key = field(compare=False)
    place: asyncio.Future[WorkerSlot] = field(compare=False)


class Dispatcher:
    """One line for all workers: of `places`, each of which has `most` requests at work."""

    def __init__(self, most: int, metrics: GatewayMetrics) -> None:
        self.places: Sequence[WorkerSlot] = ()
        self._most = most
        self._line: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._answering = time.monotonic()
        self._metrics = metrics
        metrics.waiting_jobs.set_function(lambda: len(self._line))

    @property
    def workers(self) -> int:
        """How many have something loaded, and answer."""
        return sum(bool(place.models) for place in self.places)

    async def tell_those_who_wait(self) -> None:
        """Has nobody wait for workers that do not come back."""
        while True:
            await asyncio.sleep(1)
            if self.gone:
                for waiting in [waiting for waiting in self._line if not waiting.place.done()]:
                    self._give_up(waiting, "no worker answers")

    @property
    def gone(self) -> bool:
        """Whether there has been no worker for so long that requests do not wait for one."""
        return time.monotonic() - self._answering > GONE

    def expect(self) -> None:
        """From now on `change` waits for what is still to come."""
        self._changed.clear()

    async def change(self) -> None:
        """Waits until something has changed, or may have."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._changed.wait()

    async def seated(self, case: AdmittedRequest, key: Key) -> WorkerSlot:
        """Waits in line for a worker."""
        began = time.monotonic()
        rank = not case.suspect, case.price.cost + AGEING * case.began
        waiting = _Waiting(rank, case.number, case, key, asyncio.get_running_loop().create_future())
        bisect.insort(self._line, waiting)
        self.seat()
        try:
            return await waiting.place
        except asyncio.CancelledError:
            if waiting in self._line:
                self._line.remove(waiting)
            elif waiting.place.exception() is None:  # it was called up at the same moment
                waiting.place.result().leave(case, answered=False)
                self.seat()
            raise
        finally:
            now = time.monotonic()
            case.waited += now - began
            self._metrics.waiting_seconds.labels(case.call.method).observe(now - began)
            case.call.moments.append(Moment("wait", began, now))

    def seat(self) -> None:
        """Calls up those for whom there is room, in order."""
        self._changed.set()
        if self.workers:
            self._answering = math.inf
        elif self._answering == math.inf:
            self._answering = time.monotonic()
        while self._call_up():
            pass

    def _call_up(self) -> bool:
        """Calls up the first one for whom there is room; whether there was one. A suspect that finds none has a worker
        kept free for it: those behind it would keep all of them busy."""
        if all(len(place.cases) >= self._most for place in self.places):
            return False
        kept: WorkerSlot | None = None
        vain = set[tuple[Key, str, bool]]()
        for waiting in self._in_order():
            case = waiting.case
            alike = waiting.key, case.call.caller, case.price.long
            if waiting.place.done() or alike in vain:  # one that is cancelled is taken out of the line a moment later
                continue
            if all(place.ready and waiting.key not in place.models for place in self.places):
                self._give_up(waiting, "no worker could load it when it was started")
                continue
            able = [place for place in self.places if place is not kept and self._room(place, waiting)]
            if able:
                place = min(able, key=lambda place: place.backlog)
                self._line.remove(waiting)
                place.enter(case)
                waiting.place.set_result(place)
                return True
            if not case.suspect:
                vain.add(alike)
            elif kept is None:
                has = [place for place in self.places if waiting.key in place.models]
                kept = min(has, key=lambda place: (not place.alone, place.backlog), default=None)
        return False

    def _in_order(self) -> list[_Waiting]:
        """Those in line: suspects, then those of the caller that has least predicted work at work, each caller's by
        rank."""
        work = defaultdict[str, float](float)
        for place in self.places:
            for case in place.cases.values():
                work[case.call.caller] += case.left
        return sorted(self._line, key=lambda waiting: (waiting.rank[0], work[waiting.case.call.caller]))

    def _give_up(self, waiting: _Waiting, why: str) -> None:
        """Tells a request in line that it waits in vain."""
        self._line.remove(waiting)
        name, version = waiting.key
        sentence = f"{name}@{version} cannot be asked now: {why}; the log says more"
        waiting.place.set_exception(Unavailable(sentence, reason="NO_WORKER", retry_seconds=GONE))

    def _room(self, place: WorkerSlot, waiting: _Waiting) -> bool:
        case = waiting.case
        if waiting.key not in place.models:
            return False
        if case.suspect:
            return not place.cases
        if place.alone or len(place.cases) >= self._most:
            return False
        # Of what a worker has at work, three quarters may be one caller's: another one finds room at once.
        own = sum(other.call.caller == case.call.caller for other in place.cases.values())
        if own >= max(1, self._most * 3 // 4):
            return False
        # Half may be long: there is always room for the short ones that overtake them.
        return not case.price.long or place.long < self._most // 2
