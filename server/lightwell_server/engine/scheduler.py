"""Decides what the device does next. Pure data: no tensor, no thread, no clock of its own.

The caller that has used the least device time goes first, and of its runs the one that has used the least, so that a
new saliency map overtakes a style transfer at the next step with nothing predicted, and nobody has more of the device
for asking more at a time. Waiting counts in favour of runs and callers, so nobody starves: `attained - AGEING * waited`
orders the line, and since all wait equally fast, `attained + AGEING * since` is a fixed rank. A caller that comes, or
comes back, is taken to have used as much as the least of those who wait: it has saved nothing up, and owes nothing. The
step is filled with runs of the same key. A chunk is bounded in rows, and in seconds by what rows of its key have cost
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
"""Seconds of device time that a second of waiting makes up for."""
GRAIN = 0.002
"""Seconds of device time by which runs, and callers, must differ for one to go before the other."""
KEYS = 4096
"""Keys whose cost is remembered."""
RIDE = 0.5
"""Seconds of device time by which a caller may be ahead for having had rows in others' steps."""
CALLERS = 4096
"""Callers that are remembered while they ask nothing; one that is forgotten owes nothing for its last step."""


class Charged(Protocol):
    """What the scheduler knows of a run."""

    caller: str
    attained: float
    deadline: float
    gone: bool


@dataclass(eq=False, slots=True)
class Ticket:
    """The rows of one Ask in line. Tickets of one `key` cost alike; `most` of their rows fit into one step. `alone`
    shares its steps with nobody; `chunk` fixes the rows of each of its steps. `turn` counts how often it was taken."""

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

    def add(self, ticket: Ticket, room: int) -> int:
        """Takes rows of a ticket in, so many at most; returns the room that is left."""
        rows = min(room, ticket.left)
        self.slices.append(Slice(ticket, ticket.next_row, ticket.next_row + rows))
        ticket.next_row += rows
        return room - rows


Entry = tuple[Ticket, int]
"""A place in line, and the ticket's turn that it was for: the ticket may have been taken out of another line since."""


class Line:
    """Tickets by rank. Ranks that differ by less than GRAIN are one, and within one the first come are first, so that
    a long line costs no more than a short one. A ticket that was taken out of another line is passed over."""

    def __init__(self) -> None:
        self.waiting = 0
        self._ranks: dict[int, deque[Entry]] = {}
        self._order: list[int] = []

    def add(self, entry: Entry, rank: int) -> None:
        """Puts a ticket in line."""
        self.waiting += 1
        waiting = self._ranks.get(rank)
        if waiting is None:
            waiting = self._ranks[rank] = deque()
            heapq.heappush(self._order, rank)
        waiting.append(entry)

    def first(self) -> Ticket:
        """Who is first; somebody waits."""
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
    """What a caller has `served` seconds of, and its `place` among others by that and by how long it waits for more:
    the lower, the earlier."""

    served: float
    place: int = 0

    def serve(self, served: float, now: float) -> None:
        """It has had so much by now, and waits for more from now on."""
        self.served = served
        self.place = int((served + AGEING * now) / GRAIN)


class Lines(dict[Account, Line]):
    """A line for each caller that waits."""

    def add(self, account: Account, entry: Entry, rank: int) -> None:
        """Puts a ticket in its caller's line."""
        self.setdefault(account, Line()).add(entry, rank)

    def left(self, account: Account) -> None:
        """One of that caller's tickets is in line no more."""
        line = self[account]
        line.waiting -= 1
        if line.waiting:
            line.first()  # lets go of those in front that were taken out by another way
        else:
            del self[account]


SERVED, PLACE = attrgetter("served"), attrgetter("place")


class Scheduler:
    """The line of tickets."""

    def __init__(self, max_rows: int = 32, max_seconds: float = 0.1) -> None:
        self.max_rows = max_rows
        self.max_seconds = max_seconds
        self.waiting_rows = 0
        self._all = Lines()
        self._by_key: dict[Hashable, Lines] = {}
        self._accounts: dict[str, Account] = {}
        self._floor = 0.0
        self._experience: OrderedDict[Hashable, Experience] = OrderedDict()
        self._most_rows: dict[Hashable, int] = {}

    def add(self, ticket: Ticket, now: float) -> None:
        """Puts a ticket in line."""
        account = self._account(ticket.run.caller)
        if account not in self._all:
            account.serve(max(account.served, self._floor), now)
        ticket.since, ticket.waits = now, True
        rank, entry = self.rank(ticket, now), (ticket, ticket.turn)
        self._all.add(account, entry, rank)
        if not ticket.alone:
            self._by_key.setdefault(ticket.key, Lines()).add(account, entry, rank)
        self.waiting_rows += ticket.left

    def rank(self, ticket: Ticket, now: float) -> int:
        """The ticket's place among others of its caller: the lower, the earlier."""
        return int((ticket.run.attained + AGEING * now) / GRAIN)

    def leave(self, ticket: Ticket) -> None:
        """Takes a ticket out of the line, if it waits there."""
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
        """Takes the next step out of the line."""
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
        """Takes the first ticket out of the line."""
        while self._all:
            account = min(self._all, key=PLACE)
            for ticket in self._taken(self._all, account, now, take):
                return ticket
        return None

    def _fill(self, take: Take, room: int, now: float) -> None:
        """Fills a step with tickets of the same key, callers that have used least first."""
        first = take.slices[0].ticket
        same = self._by_key.get(first.key, Lines())
        own = self._accounts[first.run.caller]
        most = math.inf if same.keys() <= {own} else self._riding(same)
        for account in sorted(same, key=PLACE):
            if account is own or account.served <= most:
                for ticket in self._taken(same, account, now, take):
                    room = take.add(ticket, room)
                    if not room:
                        return

    def _riding(self, same: Lines) -> float:
        """The most that a caller may have used to have rows in another one's step: little more than any caller that
        waits for another key, too. Otherwise one that asks much would have all that the steps of others leave, and the
        others their turn once in so many steps."""
        none = Line()
        elsewhere = (a.served for a, line in self._all.items() if line.waiting > same.get(a, none).waiting)
        return RIDE + min(elsewhere, default=math.inf)

    def charge(self, take: Take, seconds: float, now: float, busy: bool = False) -> None:
        """Shares a step's seconds out by rows, learns from it, and puts tickets with rows left back in line. `busy`:
        the device was at work for others than this process meanwhile."""
        rate = seconds / take.rows
        self._learn(take, seconds, now, busy)
        for part in take.slices:
            cost, account = rate * (part.stop - part.start), self._account(part.ticket.run.caller)
            part.ticket.run.attained += cost
            account.serve(account.served + cost, now)
            if part.ticket.left:
                self.add(part.ticket, now)

    def _learn(self, take: Take, seconds: float, now: float, busy: bool) -> None:
        """Learns from a step. What a row costs at least is learned from those that had as many rows as such steps may
        have, once that number is no guess any more: few rows cost more each, and so does what was begun just now."""
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

    def bare_seconds(self, key: Hashable, now: float) -> float:
        """The least that a row of that key costs; 0 as long as that is not known."""
        known = self._experience.get(key)
        return known.least.value(now) if known is not None else 0.0

    def hopeless(self, ticket: Ticket, now: float) -> bool:
        """Whether a ticket's rows cannot be answered in time, even at the least that such rows cost."""
        return now + self.bare_seconds(ticket.key, now) * ticket.left >= ticket.run.deadline

    def limit(self, key: Hashable) -> int:
        """The most rows of a step: one at first, then what fits into the seconds and into memory."""
        known = self._experience.get(key)
        rows = 1 if known is None else known.rows(self.max_seconds)
        return min(rows, self.max_rows, self._most_rows.get(key, self.max_rows))

    def _most(self, ticket: Ticket) -> int:
        """The most rows of a step that begins with that ticket, however little they cost."""
        return min(self.max_rows, self._most_rows.get(ticket.key, self.max_rows), ticket.most or self.max_rows)

    def _room(self, ticket: Ticket) -> int:
        """The rows of a step that begins with that ticket: now and then twice as many as take the seconds, for the cost
        of few rows does not tell that of more."""
        if ticket.chunk is not None:
            return min(ticket.chunk, ticket.most or self.max_rows)
        rows, known = self.limit(ticket.key), self._experience.get(ticket.key)
        return min(2 * rows if known is not None and known.probe <= 0 else rows, self._most(ticket))

    def _taken(self, lines: Lines, account: Account, now: float, take: Take) -> Iterator[Ticket]:
        """Takes a caller's tickets out of the line. Those of the gone, and those that are too late for what they ask,
        go to `take.dropped`."""
        while (line := lines.get(account)) is not None:
            ticket = line.first()
            self.leave(ticket)
            if ticket.run.gone or self.hopeless(ticket, now):
                take.dropped.append(ticket)
            else:
                yield ticket

    def _account(self, caller: str) -> Account:
        """A caller's account, a new one if it is not known any more."""
        account = self._accounts.get(caller)
        if account is None:
            if len(self._accounts) >= CALLERS:
                self._accounts = {name: known for name, known in self._accounts.items() if known in self._all}
            account = self._accounts[caller] = Account(self._floor)
        return account
