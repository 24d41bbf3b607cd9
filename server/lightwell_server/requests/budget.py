"""Shares of a scarce resource, such as memory or processors: the caller that has used least comes first."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lightwell_server.errors import Overloaded

PATIENCE = 10.0
"""Seconds that a caller waits for its share before it gets an error."""


@dataclass(eq=False)
class Hold:
    """What one call holds: its `amount`, and how much of the total that counts for (`counted`)."""

    budget: Budget
    caller: str
    amount: float = 0.0
    counted: float = 0.0

    def resize(self, amount: float) -> None:
        """Changes the amount. It may exceed what is free: further calls then wait longer."""
        self.budget.give(self, amount, amount)

    def outgrow(self, amount: float) -> None:
        """Raises the amount beyond what was given, charged only to the caller's share: others cannot prevent it."""
        self.budget.give(self, max(amount, self.amount), self.counted)


@dataclass(eq=False)
class _Waiting:
    hold: Hold
    amount: float
    charge: float
    number: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Budget:
    """`total` of a resource, of which one caller may hold `share` (0 to 1). Its first amount may be more, up to the
    total. Waiting calls are ordered by what their callers have been charged so far. A new caller begins with the least
    charge of those that wait or hold. For one event loop."""

    def __init__(self, total: float, what: str, share: float = 0.5) -> None:
        self.total, self._what, self._share = total, what, share
        self._free = total
        self._held: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._charged: dict[str, float] = {}
        self._line: list[_Waiting] = []
        self._numbers = itertools.count()

    @property
    def held(self) -> float:
        """What all hold together."""
        return self.total - self._free

    @asynccontextmanager
    async def holding(
        self, caller: str, amount: float, charge: float | None = None, patience: float | None = PATIENCE
    ) -> AsyncIterator[Hold]:
        """Holds an amount, at most the total, during the block. `charge` is what it counts for in the order of waiting
        calls (None: the amount). Raises `Overloaded` after `patience` seconds in the queue (None: never)."""
        hold, amount = Hold(self, caller), min(amount, self.total)
        self._enter(caller)
        try:
            await self._granted(hold, amount, amount if charge is None else charge, patience)
            yield hold
        finally:
            hold.resize(0)
            self._leave(caller)

    def give(self, hold: Hold, amount: float, counted: float) -> None:
        """Sets what a call holds, and gives freed amounts to waiting calls."""
        self._free += hold.counted - counted
        self._held[hold.caller] += amount - hold.amount  # type: ignore[assignment] # amounts may be fractions
        hold.amount, hold.counted = amount, counted
        self._share_out()

    def _enter(self, caller: str) -> None:
        if caller not in self._charged:
            self._charged[caller] = min(self._charged.values(), default=0.0)
        self._calls[caller] += 1

    def _leave(self, caller: str) -> None:
        self._calls[caller] -= 1
        if not self._calls[caller]:
            del self._calls[caller], self._held[caller], self._charged[caller]

    async def _granted(self, hold: Hold, amount: float, charge: float, patience: float | None) -> None:
        if not self._line and amount <= self._free and self._fits(hold, amount):
            self._grant(hold, amount, charge)
            return
        waiting = _Waiting(hold, amount, charge, next(self._numbers))
        self._line.append(waiting)
        self._share_out()
        try:
            async with asyncio.timeout(patience):
                await waiting.granted
        except TimeoutError:
            raise Overloaded(
                f"{self._what} of the requests in progress fill the room for them; try again later"
            ) from None
        finally:
            if waiting in self._line:
                self._line.remove(waiting)
                self._share_out()  # it may have blocked smaller ones

    def _share_out(self) -> None:
        """Serves the queue in order, until an amount does not fit: smaller ones behind it must not starve it. Calls
        whose caller has used up its share are skipped."""
        while self._line:
            able = [waiting for waiting in self._line if self._may(waiting)]
            first = min(able, key=lambda waiting: (self._charged[waiting.hold.caller], waiting.number), default=None)
            if first is None or first.amount > self._free:
                return
            self._line.remove(first)
            self._grant(first.hold, first.amount, first.charge)
            first.granted.set_result(None)

    def _grant(self, hold: Hold, amount: float, charge: float) -> None:
        self._charged[hold.caller] += charge
        self._free -= amount
        self._held[hold.caller] += amount  # type: ignore[assignment]
        hold.amount = hold.counted = amount

    def _may(self, waiting: _Waiting) -> bool:
        if waiting.granted.done():  # cancelled, and still in the queue
            return False
        return self._fits(waiting.hold, waiting.amount)

    def _fits(self, hold: Hold, amount: float) -> bool:
        """Whether it is within the caller's share."""
        held = self._held[hold.caller]
        return not held or held + amount <= self._share * self.total
