"""Admission: whether a request can meet its deadline together with all requests in progress, by its predicted cost.

Callers share a device equally: until a request is done, another caller gets at most as much of it as the request's own.
Requests of one caller are ordered by least attained service. A request that costs c therefore waits, for each other one
of its caller, for the time which that still uses until it has used c itself.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from lightwell_server.errors import DeadlineExceeded, Overloaded
from lightwell_server.gateway.prices import CostModel
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.requests.admitted import AdmittedRequest, Price
from lightwell_server.requests.call import Call

PACE = 0.8
"""Predicted device seconds that are done in a second of waiting: there is overhead between steps, and predictions may
be too low."""


class Admission:
    """The admitted requests, and the limits for further ones. `workers()` is how many devices serve now. At most `most`
    requests may be admitted at a time, `each` of one caller, and none behind more than `queue` predicted device
    seconds. A request may plan `max_steps`."""

    def __init__(
        self,
        workers: Callable[[], int],
        most: int,
        each: int,
        queue: float,
        max_steps: int,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        metrics = metrics or GatewayMetrics()
        self._workers, self._most, self._each, self._queue = workers, most, each, queue
        self._requests: dict[int, AdmittedRequest] = {}
        self._numbers = itertools.count(1)
        self._backlog = Backlog(most)
        self.prices = CostModel(max_steps, metrics=metrics)
        metrics.jobs.set_function(lambda: len(self._requests))
        metrics.predicted_queue.set_function(lambda: self.seconds)

    @property
    def requests(self) -> list[AdmittedRequest]:
        """The admitted requests, in order."""
        return list(self._requests.values())

    @property
    def seconds(self) -> float:
        """Predicted seconds that the serving devices need for all admitted requests."""
        return sum(admitted.left for admitted in self.requests) / max(1, self._workers())

    @contextmanager
    def admitted(self, call: Call, version: str, deadline: float, price: Price) -> Iterator[AdmittedRequest]:
        """Admits a request for the duration of the block. Raises `DeadlineExceeded` and `Overloaded`, before any work
        is done for it."""
        self._check(call.caller, price, deadline - time.monotonic())
        admitted = AdmittedRequest(call, next(self._numbers), version, deadline, price=price)
        self._requests[admitted.number] = admitted
        self._backlog.note(admitted, waits=False)
        try:
            yield admitted
        finally:
            del self._requests[admitted.number]
            self._backlog.leave(admitted)

    def attained(self, seconds: Mapping[int, float]) -> None:
        """Updates the device seconds that requests have used so far, by number, and their predicted cost."""
        for admitted in self.requests:
            admitted.attained = seconds.get(admitted.number, admitted.attained)
            admitted.cost = self.prices.cost(admitted.price)
            self._backlog.note(admitted, waits=admitted.worker is None)

    def check(self, caller: str) -> None:
        """Raises `Overloaded` if the caller has as many requests in progress as it may."""
        if self._backlog.count(caller) >= self._each:
            raise Overloaded(
                f"{caller} has {self._each} requests in progress already; wait for one to end", reason="TOO_MANY_JOBS"
            )

    def _check(self, caller: str, price: Price, left: float) -> None:
        if len(self._requests) >= self._most:
            raise Overloaded(f"{self._most} requests are in progress already; try again later")
        self.check(caller)
        if price.least > left > 0:
            raise DeadlineExceeded(
                f"such a request has taken {price.least:.2g} seconds of the device at least and this one has"
                f" {left:.2g}; give it more time or ask for less",
                reason="DEADLINE_TOO_SHORT",
            )
        before = self._backlog.before(price, caller) / max(1, self._workers()) / PACE
        own = price.seconds or 0.0
        late = before + (own if own < left else price.least) - left  # one that may stop early may need only the least
        if before and late > 0:
            raise Overloaded(
                f"about {before:.2g} seconds of work are before this request, which has {left:.2g};"
                " try again later, or give it more time",
                retry_seconds=late,
            )
        if before > self._queue:
            raise Overloaded(
                f"about {before:.0f} seconds of work are before this request; try again later",
                retry_seconds=before - self._queue,
            )


class Backlog:
    """The remaining cost of the requests in progress, in arrays: it is read for each new request, most often under
    load."""

    def __init__(self, most: int) -> None:
        self._free = list(range(most))
        self._places: dict[int, int] = {}
        self._cost, self._left, self._attained = np.zeros(most), np.zeros(most), np.zeros(most)
        self._waits = np.zeros(most, bool)
        self._owner = np.zeros(most, np.intp)
        self._callers: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._names = list(range(most))

    def count(self, caller: str) -> int:
        """The number of a caller's requests."""
        return self._counts[caller]

    def note(self, admitted: AdmittedRequest, waits: bool) -> None:
        """Adds or updates a request. `waits`: it waits for a worker, which a new request is not assumed to do."""
        place = self._places.get(admitted.number)
        if place is None:
            place = self._places[admitted.number] = self._free.pop()
            self._owner[place] = self._entered(admitted.call.caller)
        self._cost[place], self._left[place], self._attained[place] = admitted.cost, admitted.left, admitted.attained
        self._waits[place] = waits

    def leave(self, admitted: AdmittedRequest) -> None:
        """Removes a request."""
        place, caller = self._places.pop(admitted.number), admitted.call.caller
        self._left[place] = 0
        self._free.append(place)
        self._counts[caller] -= 1
        if not self._counts[caller]:
            del self._counts[caller]
            self._names.append(self._callers.pop(caller))

    def before(self, price: Price, caller: str) -> float:
        """Device seconds that other requests use before a caller's new request of that price is done. Of the caller's
        own requests, those that wait for a worker and cost more come after it. Each other caller uses at most as much
        as these and the new one together."""
        own = self._owner == self._callers.get(caller, -1)
        ahead = np.minimum(self._left, np.maximum(price.cost - self._attained, 0))
        mine = float(ahead[own & (~self._waits | (self._cost <= price.cost))].sum())
        others = np.bincount(self._owner, np.where(own, 0.0, self._left))
        return mine + float(np.minimum(others, mine + price.cost).sum())

    def _entered(self, caller: str) -> int:
        """A caller's index, which it keeps while it has requests."""
        self._counts[caller] += 1
        if caller not in self._callers:
            self._callers[caller] = self._names.pop()
        return self._callers[caller]
