"""Decides what the device does next. Pure data: no tensor, no thread, no clock of its own.

The caller that has used the least device time goes first, and of its runs the one that has used the least. A new
saliency map thus overtakes a style transfer at the next step without any prediction, and a caller gets no larger share
by sending more requests at a time. Waiting counts in favour of runs and callers, so none starves: the queue is ordered
by `attained - AGEING * waited`. Since all wait equally fast, `attained + AGEING * since` is a fixed rank. A caller that
is new or returns is charged as much as the least charged of those that wait, so it has neither credit nor debt. A step
is filled with runs of the same key. A chunk is limited in rows, and in seconds by what rows of its key have cost
before.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from lightwell_server.engine.experience import Experience

AGEING = 0.02
"""Seconds of device time that a second of waiting offsets."""
GRAIN = 0.002
"""Runs and callers whose device seconds differ by less than this rank equally."""
KEYS = 4096
"""Keys whose cost is remembered."""
RIDE = 0.5
"""Seconds of device time by which a caller may be ahead because its rows filled up steps of others."""
CALLERS = 4096
"""Idle callers that are remembered. A forgotten caller is not charged for its last step."""


class Charged(Protocol):
    """What the scheduler knows of a run."""

    caller: str
    attained: float
    deadline: float
    gone: bool


@dataclass(eq=False, slots=True)
class Ticket:
    """The rows of one Ask in the queue. Tickets of one `key` cost alike; `most` of their rows fit into one step. A
    ticket that is `alone` shares its steps with no other; `chunk` fixes the rows of each of its steps. `turn` counts
    how often it has left a queue."""

    run: Charged
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
        """Rows that are in no step yet."""
        return self.rows - self.next_row


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start` to `stop` of a ticket, in one step."""

    ticket: Ticket
    start: int
    stop: int


@dataclass(slots=True)
class Take:
    """One step for the device (no slices: the queue is empty), and the tickets that are cancelled or too late."""

    slices: list[Slice] = field(default_factory=list)
    dropped: list[Ticket] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the step."""
        return sum(s.stop - s.start for s in self.slices)

    def add(self, ticket: Ticket, room: int) -> int:
        """Adds at most `room` rows of a ticket. Returns the room that is left."""
        rows = min(room, ticket.left)
        self.slices.append(Slice(ticket, ticket.next_row, ticket.next_row + rows))
        ticket.next_row += rows
        return room - rows


Entry = tuple[Ticket, int]
"""A ticket in a queue, and its turn when it was added. The entry is stale if the turn has changed, because the ticket
has left by another queue."""


class RankedQueue:
    """Tickets by rank. Ranks that differ by less than GRAIN are equal, and within one the order is first in, first out,
    so that a long queue costs no more than a short one. Stale entries are skipped."""

    def __init__(self) -> None:
        self.waiting = 0
        self._ranks: dict[int, deque[Entry]] = {}
        self._order: list[int] = []

    def add(self, entry: Entry, rank: int) -> None:
        """Adds a ticket."""
        self.waiting += 1
        waiting = self._ranks.get(rank)
        if waiting is None:
            waiting = self._ranks[rank] = deque()
            heapq.heappush(self._order, rank)
        waiting.append(entry)

    def first(self) -> Ticket:
        """The first ticket. There must be one."""
        while True:
            waiting = self._ranks[self._order[0]]
            while waiting:
                ticket, turn = waiting[0]
                if turn == ticket.turn:
                    return ticket
                waiting.popleft()
            del self._ranks[heapq.heappop(self._order)]


@dataclass(eq=False, slots=True)
class Account:
    """The device seconds that a caller has been `served`, and its `place` among others by these and by its waiting
    time: lower goes first."""

    served: float
    place: int = 0

    def serve(self, served: float, now: float) -> None:
        """Sets the seconds served. The waiting time begins anew."""
        self.served = served
        self.place = int((served + AGEING * now) / GRAIN)


class CallerQueues(dict[Account, RankedQueue]):
    """A queue for each caller with waiting tickets."""

    def add(self, account: Account, entry: Entry, rank: int) -> None:
        """Adds a ticket to its caller's queue."""
        self.setdefault(account, RankedQueue()).add(entry, rank)

    def left(self, account: Account) -> None:
        """Records that one of the caller's tickets has left the queue."""
        line = self[account]
        line.waiting -= 1
        if line.waiting:
            line.first()  # drops stale entries at the front
        else:
            del self[account]


SERVED, PLACE = attrgetter("served"), attrgetter("place")


class Scheduler:
    """The queue of tickets."""

    def __init__(self, max_rows: int = 32, max_seconds: float = 0.1) -> None:
        self.max_rows = max_rows
        self.max_seconds = max_seconds
        self.waiting_rows = 0
        self._all = CallerQueues()
        self._by_key: dict[Hashable, CallerQueues] = {}
        self._accounts: dict[str, Account] = {}
        self._floor = 0.0
        self._experience: OrderedDict[Hashable, Experience] = OrderedDict()
        self._most_rows: dict[Hashable, int] = {}

    def add(self, ticket: Ticket, now: float) -> None:
        """Adds a ticket to the queue."""
        account = self._account(ticket.run.caller)
        if account not in self._all:
            account.serve(max(account.served, self._floor), now)
        ticket.since, ticket.waits = now, True
        rank, entry = self.rank(ticket, now), (ticket, ticket.turn)
        self._all.add(account, entry, rank)
        if not ticket.alone:
            self._by_key.setdefault(ticket.key, CallerQueues()).add(account, entry, rank)
        self.waiting_rows += ticket.left

    def rank(self, ticket: Ticket, now: float) -> int:
        """The ticket's place among others of its caller: lower goes first."""
        return int((ticket.run.attained + AGEING * now) / GRAIN)

    def leave(self, ticket: Ticket) -> None:
        """Removes a ticket from the queue if it is there."""
        if not ticket.waits:
            return
        ticket.waits = False
        ticket.turn += 1
        self.waiting_rows -= ticket.left
        account = self._accounts[ticket.run.caller]
        self._all.left(account)
        if not ticket.alone:
            same = self._by_key[ticket.key]
            same.left(account)
            if not same:
                del self._by_key[ticket.key]

    def take(self, now: float) -> Take:
        """Removes the next step from the queue."""
        take = Take()
        least = min(map(SERVED, self._all), default=self._floor)
        first = self._first(now, take)
        if first is None:
            return take
        self._floor = max(self._floor, least)
        room = take.add(first, self._room(first))
        if room and not first.alone:
            self._fill(take, room, now)
        return take

    def _first(self, now: float, take: Take) -> Ticket | None:
        """Removes the first ticket from the queue."""
        while self._all:
            account = min(self._all, key=PLACE)
            for ticket in self._taken(self._all, account, now, take):
                return ticket
        return None

    def _fill(self, take: Take, room: int, now: float) -> None:
        """Fills a step with tickets of the same key, least served callers first."""
        first = take.slices[0].ticket
        same = self._by_key.get(first.key, CallerQueues())
        own = self._accounts[first.run.caller]
        most = math.inf if same.keys() <= {own} else self._riding(same)
        for account in sorted(same, key=PLACE):
            if account is own or account.served <= most:
                for ticket in self._taken(same, account, now, take):
                    room = take.add(ticket, room)
                    if not room:
                        return

    def _riding(self, same: CallerQueues) -> float:
        """The most seconds that a caller may have used to add rows to a step of another: RIDE more than the least used
        by any caller that waits for another key, too. Otherwise a caller with many requests would fill the rest of
        every step of others, and the others would seldom get a step of their own."""
        none = RankedQueue()
        elsewhere = (a.served for a, line in self._all.items() if line.waiting > same.get(a, none).waiting)
        return RIDE + min(elsewhere, default=math.inf)

    def charge(self, take: Take, seconds: float, now: float, busy: bool = False) -> None:
        """Charges a step's seconds by rows, updates the cost estimates, and queues tickets with rows left again.
        `busy`: other processes used the device meanwhile."""
        rate = seconds / take.rows
        self._learn(take, seconds, now, busy)
        for part in take.slices:
            cost, account = rate * (part.stop - part.start), self._account(part.ticket.run.caller)
            part.ticket.run.attained += cost
            account.serve(account.served + cost, now)
            if part.ticket.left:
                self.add(part.ticket, now)

    def _learn(self, take: Take, seconds: float, now: float, busy: bool) -> None:
        """Updates the cost estimates from a step. The minimum per row is updated only by full steps, once the number of
        rows in a full step is known: rows of small steps and of the first steps cost more."""
        first = take.slices[0].ticket
        known = self._experience.setdefault(first.key, Experience())
        full, most = self.limit(first.key), self._most(first)
        known.learn(take.rows, seconds, self.max_seconds, busy)
        if known.steps > 1 and take.rows >= min(full, most) and (full >= most or known.settled) and not busy:
            known.least.learn(seconds / take.rows, now)
        self._experience.move_to_end(first.key)
        if len(self._experience) > KEYS:
            self._most_rows.pop(self._experience.popitem(last=False)[0], None)

    def shrink(self, take: Take, now: float) -> bool:
        """Handles a step that did not fit into memory: halves the rows of its key from now on and queues all tickets
        again. Returns False if the step had one row already."""
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
        """The cost of a row of that key; None if none has run."""
        known = self._experience.get(key)
        return None if known is None else known.seconds

    def bare_seconds(self, key: Hashable, now: float) -> float:
        """The minimum cost of a row of that key; 0 as long as it is not known."""
        known = self._experience.get(key)
        return known.least.value(now) if known is not None else 0.0

    def hopeless(self, ticket: Ticket, now: float) -> bool:
        """Whether a ticket misses its deadline even at the minimum cost of its rows."""
        return now + self.bare_seconds(ticket.key, now) * ticket.left >= ticket.run.deadline

    def limit(self, key: Hashable) -> int:
        """The most rows of a step: one at first, then what fits into the seconds and into memory."""
        known = self._experience.get(key)
        rows = 1 if known is None else known.rows(self.max_seconds)
        return min(rows, self.max_rows, self._most_rows.get(key, self.max_rows))

    def _most(self, ticket: Ticket) -> int:
        """The most rows of a step that begins with that ticket, regardless of their cost."""
        return min(self.max_rows, self._most_rows.get(ticket.key, self.max_rows), ticket.most or self.max_rows)

    def _room(self, ticket: Ticket) -> int:
        """The rows of a step that begins with that ticket. Now and then they are twice as many as fit into the seconds,
        for the cost of few rows does not predict that of more."""
        if ticket.chunk is not None:
            return min(ticket.chunk, ticket.most or self.max_rows)
        rows, known = self.limit(ticket.key), self._experience.get(ticket.key)
        return min(2 * rows if known is not None and known.probe <= 0 else rows, self._most(ticket))

    def _taken(self, lines: CallerQueues, account: Account, now: float, take: Take) -> Iterator[Ticket]:
        """Removes a caller's tickets from the queue. Those that are cancelled or cannot meet their deadline go to
        `take.dropped`."""
        while (line := lines.get(account)) is not None:
            ticket = line.first()
            self.leave(ticket)
            if ticket.run.gone or self.hopeless(ticket, now):
                take.dropped.append(ticket)
            else:
                yield ticket

    def _account(self, caller: str) -> Account:
        """A caller's account, a new one if it is unknown or forgotten."""
        account = self._accounts.get(caller)
        if account is None:
            if len(self._accounts) >= CALLERS:
                self._accounts = {name: known for name, known in self._accounts.items() if known in self._all}
            account = self._accounts[caller] = Account(self._floor)
        return account
