"""Decides what the device does next. Pure data: no tensor, no thread, no clock of its own.

The job that has used the least device time goes first, so that a new saliency map overtakes a style transfer at the
next step with nothing predicted. Waiting counts in a job's favour, so nobody starves: `attained - AGEING * waited`
orders the line, and since all wait equally fast, `attained + AGEING * since` is a fixed rank. The step is filled with
jobs of the same key. A chunk is bounded in rows, and in seconds by what rows of its key have cost before.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

AGEING = 0.02
"""Seconds of device time that a second of waiting makes up for."""
GRAIN = 0.002
"""Seconds of device time by which jobs must differ for one to go before the other."""
ENOUGH = 4
"""Steps of a key from which on a request may be refused for what its rows have cost at least."""
KEYS = 4096
"""Keys whose cost is remembered."""


class Charged(Protocol):
    """What the scheduler knows of a job."""

    attained: float
    deadline: float
    gone: bool


@dataclass(eq=False, slots=True)
class Ticket:
    """The rows of one Ask in line. Tickets of one `key` cost alike; `most` of their rows fit into one step. `alone`
    shares its steps with nobody; `chunk` fixes the rows of each of its steps. `turn` counts how often it was taken."""

    job: Charged
    key: Hashable
    rows: int
    alone: bool = False
    chunk: int | None = None
    most: int | None = None
    next_row: int = 0
    since: float = 0.0
    turn: int = 0
    waits: bool = False

    @property
    def left(self) -> int:
        """Rows that no step has taken yet."""
        return self.rows - self.next_row


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start` to `stop` of a ticket, in one step."""

    ticket: Ticket
    start: int
    stop: int


@dataclass(slots=True)
class Take:
    """One step for the device (no slices: nothing is waiting), and the tickets whose callers are gone or too late."""

    slices: list[Slice] = field(default_factory=list)
    dropped: list[Ticket] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the step."""
        return sum(s.stop - s.start for s in self.slices)


@dataclass(slots=True)
class Experience:
    """What a row of a key has cost: lately, and at least."""

    seconds: float = 0.0
    least: float = math.inf
    steps: int = 0

    def learn(self, seconds: float) -> None:
        """Takes a step's figure in. The first is forgotten with the second: kernels are still being chosen, memory is
        still being taken."""
        self.steps += 1
        if self.steps <= 2:
            self.seconds = self.least = seconds
        else:
            self.seconds = (seconds + self.seconds) / 2
            self.least = min(self.least, seconds)


Entry = tuple[Ticket, int]
"""A place in line, and the ticket's turn that it was for: the ticket may have been taken out of another line since."""


class Line:
    """Tickets by rank. Ranks that differ by less than GRAIN are one, and within one the first come are first, so that
    a long line costs no more than a short one. A ticket that was taken out of another line is passed over."""

    def __init__(self) -> None:
        self._ranks: dict[int, deque[Entry]] = {}
        self._order: list[int] = []

    def add(self, entry: Entry, rank: int) -> None:
        """Puts a ticket in line."""
        waiting = self._ranks.get(rank)
        if waiting is None:
            waiting = self._ranks[rank] = deque()
            heapq.heappush(self._order, rank)
        waiting.append(entry)

    def first(self) -> Ticket | None:
        """Who is first; None if nobody waits."""
        while self._order:
            waiting = self._ranks[self._order[0]]
            while waiting:
                ticket, turn = waiting[0]
                if turn == ticket.turn:
                    return ticket
                waiting.popleft()
            del self._ranks[heapq.heappop(self._order)]
        return None


class Scheduler:
    """The line of tickets."""

    def __init__(self, max_rows: int = 32, max_seconds: float = 0.1) -> None:
        self.max_rows = max_rows
        self.max_seconds = max_seconds
        self.waiting_rows = 0
        self._line = Line()
        self._by_key: dict[Hashable, Line] = {}
        self._experience: OrderedDict[Hashable, Experience] = OrderedDict()
        self._most_rows: dict[Hashable, int] = {}

    def add(self, ticket: Ticket, now: float) -> None:
        """Puts a ticket in line."""
        ticket.since, ticket.waits = now, True
        rank, entry = self.rank(ticket, now), (ticket, ticket.turn)
        self._line.add(entry, rank)
        if not ticket.alone:
            self._by_key.setdefault(ticket.key, Line()).add(entry, rank)
        self.waiting_rows += ticket.left

    def rank(self, ticket: Ticket, now: float) -> int:
        """The ticket's place among others: the lower, the earlier."""
        return int((ticket.job.attained + AGEING * now) / GRAIN)

    def leave(self, ticket: Ticket) -> None:
        """Takes a ticket out of the line, if it waits there."""
        if ticket.waits:
            ticket.waits = False
            ticket.turn += 1
            self.waiting_rows -= ticket.left

    def take(self, now: float) -> Take:
        """Takes the next step out of the line."""
        take = Take()
        first = self._pop(self._line, now, take)
        if first is None:
            return take
        room = min(first.chunk or self.limit(first.key), first.most or self.max_rows)
        same = Line() if first.alone else self._by_key[first.key]
        ticket: Ticket | None = first
        while ticket is not None:
            rows = min(room, ticket.left)
            take.slices.append(Slice(ticket, ticket.next_row, ticket.next_row + rows))
            ticket.next_row += rows
            room -= rows
            ticket = self._pop(same, now, take) if room else None
        self._forget(first)
        return take

    def _forget(self, first: Ticket) -> None:
        """Lets go of the tickets of a key that were taken by way of the line."""
        same = self._by_key.get(first.key)
        if same is not None and same.first() is None:
            del self._by_key[first.key]

    def charge(self, take: Take, seconds: float, now: float) -> None:
        """Shares a step's seconds out by rows, learns from it, and puts tickets with rows left back in line."""
        rate = seconds / take.rows
        key = take.slices[0].ticket.key
        self._experience.setdefault(key, Experience()).learn(rate)
        self._experience.move_to_end(key)
        if len(self._experience) > KEYS:
            self._most_rows.pop(self._experience.popitem(last=False)[0], None)
        for part in take.slices:
            part.ticket.job.attained += rate * (part.stop - part.start)
            if part.ticket.left:
                self.add(part.ticket, now)

    def shrink(self, take: Take, now: float) -> bool:
        """After a step that did not fit into memory: halves the rows of its key from now on and puts all back in
        line. False if it was one row already."""
        if take.rows == 1:
            return False
        key = take.slices[0].ticket.key
        self._most_rows[key] = take.rows // 2
        for part in take.slices:
            part.ticket.next_row = part.start
            if part.ticket.chunk is not None:
                part.ticket.chunk = take.rows // 2
            self.add(part.ticket, now)
        return True

    def seconds(self, key: Hashable) -> float | None:
        """What a row of that key costs; None if none was run yet."""
        known = self._experience.get(key)
        return None if known is None else known.seconds

    def bare_seconds(self, key: Hashable) -> float:
        """The least that a row of that key has ever cost; 0 as long as that says little."""
        known = self._experience.get(key)
        return known.least if known is not None and known.steps >= ENOUGH else 0.0

    def hopeless(self, ticket: Ticket, now: float) -> bool:
        """Whether a ticket's rows cannot be answered in time, even at the least that such rows have ever cost."""
        return now + self.bare_seconds(ticket.key) * ticket.left >= ticket.job.deadline

    def limit(self, key: Hashable) -> int:
        """The most rows of a step: one at first, then what fits into the seconds and into memory."""
        rate = self.seconds(key)
        # The nearest number: a step of one row costs more than its share of a step of two.
        rows = 1 if rate is None else round(self.max_seconds / max(rate, 1e-9))
        return max(1, min(rows, self.max_rows, self._most_rows.get(key, self.max_rows)))

    def _pop(self, line: Line, now: float, take: Take) -> Ticket | None:
        """The first ticket that is still in line; those of the gone, and those that are too late for what they ask, go
        to `take.dropped`."""
        while (ticket := line.first()) is not None:
            self.leave(ticket)
            if not (ticket.job.gone or self.hopeless(ticket, now)):
                return ticket
            take.dropped.append(ticket)
        return None
