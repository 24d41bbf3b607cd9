"""Who is let in: what a request will cost, as such requests have cost before, and whether it can be done in its time.

Callers share a device equally: until a request is done, another caller has no more of it than its own one. Those of one
caller go by the least attained service: whoever has used less goes first. A request that costs c therefore waits, of
each other one of its caller, for what that has still to use before it has used c itself.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from lightwell.v1 import explain_pb2
from lightwell.v1 import types_pb2 as types
from lightwell_server import metrics, pictures
from lightwell_server.call import Call
from lightwell_server.case import GUESS, Case, Price
from lightwell_server.catalog import Request, method_of
from lightwell_server.engine.experience import Least
from lightwell_server.errors import DeadlineExceeded, Overloaded
from lightwell_server.front.library import Entry

KEPT = 15
"""Figures of a kind of request that are remembered."""
KINDS = 4096
"""Kinds of requests that are remembered."""
PACE = 0.8
"""Device seconds that are taken to be done in a second of waiting: what lies between steps takes time, too, and what is
predicted may cost more."""
ANSWER = 2**20
"""Bytes that an answer is taken to have at least where nothing like it was asked before."""
FLOAT = 4
"""Bytes of each number of an answer."""
PARTS = 64
"""Entries of a list by which requests are told apart: they are looked at before anything is checked."""
RISE = 0.05
"""By how much of itself the least of a kind rises with a request at most."""


@dataclass
class Figures:
    """What requests of one kind have cost, for each step asked for, in device seconds: had they done all their steps
    (`whole`), and at `least`; and the bytes of the largest `answer`."""

    whole: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    least: Least = field(default_factory=lambda: Least(RISE))
    answer: int = 0
    count: int = 0

    @property
    def median(self) -> float:
        """What such requests have cost lately, for each step."""
        return statistics.median(self.whole)

    def learn(self, share: float, done: float, now: float) -> None:
        """Takes a figure in, of a request that has `done` so much of its steps. The first is forgotten with the second:
        it paid for all that is done but once. Evidence for the least are those that did all steps; one that stopped
        early may bring it down."""
        self.count += 1
        if self.count == 2:
            self.whole.clear()
            self.least = Least(RISE)
        self.whole.append(share / done)
        if done < 1:
            self.least.lower(share)
        else:
            self.least.learn(share, now)


class Prices:
    """What requests cost, by experience. More than `max_steps` have no price: they are refused for their number."""

    def __init__(self, max_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_steps, self._clock = max_steps, clock
        self._kinds: OrderedDict[int, Figures] = OrderedDict()

    def price(self, request: Request, entry: Entry) -> Price:
        """What a request is expected to cost; takes no look at its pixels."""
        family, alike, steps = kind(request, entry)
        times = max(1, steps)
        if steps > self._max_steps:
            return Price(alike, family, steps)
        known, near = self._kinds.get(alike), self._kinds.get(family)
        guess = GUESS if near is None else near.median * times
        answer = (known.answer if known is not None else 0) or _largest(request, entry)
        if known is None:
            return Price(alike, family, steps, guess=guess, answer=answer)
        least = known.least.told(self._clock()) * times
        return Price(alike, family, steps, known.median * times, least, guess, answer)

    def cost(self, price: Price) -> float:
        """What a request of that price is taken to need, as is known by now."""
        known = self._kinds.get(price.kind) if price.steps <= self._max_steps else None
        return price.cost if known is None else known.median * max(1, price.steps)

    def answered(self, price: Price, size: int) -> None:
        """Takes in how many bytes an answer had, once it is learned what it cost."""
        if (known := self._kinds.get(price.kind)) is not None:
            known.answer = max(known.answer, size)

    def learn(self, case: Case, seconds: float) -> None:
        """Takes in what a request has cost. One that stopped early would have cost more, as its steps say."""
        planned, done = case.steps or 1, case.step or 1
        share = seconds / max(1, case.price.steps)
        for alike in (case.price.kind, case.price.family):
            self._kinds.setdefault(alike, Figures()).learn(share, done / planned, self._clock())
            self._kinds.move_to_end(alike)
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        if case.price.seconds is not None:
            metrics.predicted_seconds.labels(case.call.method).inc(case.price.seconds)
            if done == planned and seconds > 0:
                error = abs(case.price.seconds - seconds) / seconds
                metrics.prediction_error.labels(case.call.method).observe(error)


class Admission:
    """The requests that are in, and the door. `workers()` is how many devices answer now; `most` requests may be in,
    `each` of one caller, and none that `queue` device seconds would be before; `max_steps` may be asked for."""

    def __init__(self, workers: Callable[[], int], most: int, each: int, queue: float, max_steps: int) -> None:
        self._workers, self._most, self._each, self._queue = workers, most, each, queue
        self._cases: dict[int, Case] = {}
        self._numbers = itertools.count(1)
        self._backlog = Backlog(most)
        self.prices = Prices(max_steps)
        metrics.jobs.set_function(lambda: len(self._cases))
        metrics.predicted_queue.set_function(lambda: self.seconds)

    @property
    def cases(self) -> list[Case]:
        """The requests that are in, in their order."""
        return list(self._cases.values())

    @property
    def seconds(self) -> float:
        """Seconds that those devices that answer will need for all that is in, as predicted."""
        return sum(case.left for case in self.cases) / max(1, self._workers())

    @contextmanager
    def admitted(self, call: Call, version: str, deadline: float, price: Price) -> Iterator[Case]:
        """Lets a request in for as long as it takes. Raises `DeadlineExceeded` and `Overloaded`, before anything was
        done for it."""
        self._check(call.caller, price, deadline - time.monotonic())
        case = Case(call, next(self._numbers), version, deadline, price=price)
        self._cases[case.number] = case
        self._backlog.note(case, waits=False)
        try:
            yield case
        finally:
            del self._cases[case.number]
            self._backlog.leave(case)

    def attained(self, seconds: Mapping[int, float]) -> None:
        """Takes note of the device seconds that requests have used so far, by number, and of what they are taken to
        need by now."""
        for case in self.cases:
            case.attained = seconds.get(case.number, case.attained)
            case.cost = self.prices.cost(case.price)
            self._backlog.note(case, waits=case.worker is None)

    def check(self, caller: str) -> None:
        """Raises `Overloaded` if the caller's next request would be one too many."""
        if len(self._cases) >= self._most:
            raise Overloaded(f"{self._most} requests are in progress already; try again later")
        if self._backlog.count(caller) >= self._each:
            raise Overloaded(
                f"{caller} has {self._each} requests in progress already; wait for one to end", reason="TOO_MANY_JOBS"
            )

    def _check(self, caller: str, price: Price, left: float) -> None:
        self.check(caller)
        if price.least > left > 0:
            raise DeadlineExceeded(
                f"such a request has taken {price.least:.2g} seconds of the device at least and this one has"
                f" {left:.2g}; give it more time or ask for less",
                reason="DEADLINE_TOO_SHORT",
            )
        before = self._backlog.before(price, caller) / max(1, self._workers()) / PACE
        own = price.seconds or 0.0
        late = before + (own if own < left else price.least) - left  # one that may stop early may need the least
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
    """What requests in progress have still to use, as numbers side by side: it is asked for each request that comes,
    and answers fastest when there is most to do."""

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
        """A caller's requests."""
        return self._counts[caller]

    def note(self, case: Case, waits: bool) -> None:
        """Notes a request, or what has become of it, and whether it `waits` for a worker: who has just come may find
        one at once."""
        place = self._places.get(case.number)
        if place is None:
            place = self._places[case.number] = self._free.pop()
            self._owner[place] = self._entered(case.call.caller)
        self._cost[place], self._left[place], self._attained[place] = case.cost, case.left, case.attained
        self._waits[place] = waits

    def leave(self, case: Case) -> None:
        """Forgets a request."""
        place, caller = self._places.pop(case.number), case.call.caller
        self._left[place] = 0
        self._free.append(place)
        self._counts[caller] -= 1
        if not self._counts[caller]:
            del self._counts[caller]
            self._names.append(self._callers.pop(caller))

    def before(self, price: Price, caller: str) -> float:
        """Device seconds that others will use before a caller's request of that price has used what it needs. Of its
        own ones, those that wait for a worker and cost more will wait behind it; another caller has no more than it
        has for these and the new one."""
        own = self._owner == self._callers.get(caller, -1)
        ahead = np.minimum(self._left, np.maximum(price.cost - self._attained, 0))
        mine = float(ahead[own & (~self._waits | (self._cost <= price.cost))].sum())
        others = np.bincount(self._owner, np.where(own, 0.0, self._left))
        return mine + float(np.minimum(others, mine + price.cost).sum())

    def _entered(self, caller: str) -> int:
        """A caller's number, which it has while it has requests."""
        self._counts[caller] += 1
        if caller not in self._callers:
            self._callers[caller] = self._names.pop()
        return self._callers[caller]


def kind(request: Request, entry: Entry) -> tuple[int, int, int]:
    """A number for all requests of a model and method, one for those of them that cost the same but for their steps,
    and how many steps this one asks for (0: it does not say). The latter have in common the version, all other
    parameters, what the target reads, and the picture's size where the model's card does not choose it."""
    method = method_of(request)
    parameters = getattr(request, method.name)
    steps = parameters.steps if "steps" in parameters.DESCRIPTOR.fields_by_name else 0
    own_size = method.whole or request.image.fit == types.FIT_EXACT
    family = entry.name, method.name, steps > 0
    alike = (
        family,
        entry.version,
        _plain(parameters),
        _place(request.target),
        request.output.HasField("predictions"),
        request.reproducible,
        _size(request.image) if own_size else None,
    )
    return hash(family), hash(alike), max(0, steps)


def _plain(message: Message) -> Hashable:
    """The fields of a message, without its images and steps, and of a list how long it is and how it begins."""
    found = []
    for field_, value in message.ListFields():
        if field_.name == "steps" or isinstance(value, types.Image):
            continue
        count, parts = (len(value), value[:PARTS]) if field_.is_repeated else (1, (value,))
        plain = tuple(_plain(part) if isinstance(part, Message) else part for part in parts)
        found.append((field_.name, count, plain))
    return tuple(found)


def _place(target: types.Target) -> Hashable:
    """Where a target is read: which class or channel it is changes nothing."""
    which = target.WhichOneof("target")
    return which, getattr(getattr(target, which), "layer", None) if which else None


def _largest(request: Request, entry: Entry) -> int:
    """Bytes that an answer may have where nothing like it was asked before: those of an image's numbers, or of the
    layers that the method reads, if these are more."""
    method, told = method_of(request), entry.described
    if not isinstance(request, explain_pb2.ExplainRequest):
        return ANSWER
    named = getattr(getattr(request, method.name), "layer", "")
    own = next((each.default_layers for each in told.methods if each.method == method.name), ())
    wanted = {named} if named else set(own)
    read = (layer for layer in told.layers if wanted.intersection((layer.name, *layer.aliases)))
    usual = max(1, told.card.height * told.card.width)
    numbers = max(told.card.channels * usual, *(math.prod(layer.shape) for layer in read), 0)
    sides = _sides(request.image) if method.whole or request.image.fit == types.FIT_EXACT else None
    return max(ANSWER, FLOAT * numbers * (usual if sides is None else math.prod(sides)) // usual)


def _sides(image: types.Image) -> Any:  # noqa: ANN401 - whatever holds two numbers
    """A picture's height and width by its header; None if it does not tell."""
    return image.tensor.shape[1:] if image.HasField("tensor") else pictures.header_size(image.encoded)


def _size(image: types.Image) -> Hashable:
    """A picture's size by its header, coarsely: sides that differ by less than a fifth are taken for equal."""
    sides = _sides(image)
    return tuple(round(4 * math.log2(max(1, side))) for side in sides) if sides else None
