"""What device steps have cost, and what may be relied on of it. Pure data, as the scheduler that learns it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

ENOUGH = 4
"""Figures from which on a request may be refused for the least of them."""
HALVED = 60.0
"""Seconds after which the least that something has cost counts half, if nothing like it was run meanwhile: who is
refused for it brings no newer figure."""
RISE = 0.01
"""By how much of itself the least of a key rises with a step at most."""
PROBE, PROBE_AGAIN = 4, 256
"""Steps of a key from one that tries twice its rows to the next one; after one by which the rows did not become
more."""
BETTER, LONG = 0.9, 1.5
"""What a row of a larger step costs at most of what it cost before, if more rows shall be taken; and of the seconds
wanted, what a step takes from which on it tells that full ones take too long."""


@dataclass(slots=True)
class Least:
    """The least that something has cost, as far as there is evidence for it: a lower figure brings it down at once, a
    higher one lets it `rise` by so much of itself, and it fades while there are none."""

    rise: float
    figure: float = math.inf
    count: int = 0
    since: float = 0.0

    def learn(self, seconds: float, now: float) -> None:
        """Takes a figure in that is evidence."""
        self.figure, self.since = min(seconds, self.figure * (1 + self.rise)), now
        self.count += 1

    def lower(self, seconds: float) -> None:
        """Takes a figure in that says only that it may be as little."""
        self.figure = min(self.figure, seconds)

    def value(self, now: float) -> float:
        """What may be relied on; 0 as long as that is nothing."""
        return self.figure * 0.5 ** ((now - self.since) / HALVED) if self.count >= ENOUGH else 0.0


@dataclass(slots=True)
class Experience:
    """What steps of a key have cost lately, in seconds: a row in any step (`seconds`) and in a full one (`pace`), and a
    step of one row (`single`). `probe` counts the steps until the next one that tries more rows; it is `settled` that
    more would not do. `least` is of a row in full steps."""

    seconds: float = 0.0
    pace: float = 0.0
    single: float = 0.0
    steps: int = 0
    probe: int = PROBE
    settled: bool = False
    least: Least = field(default_factory=lambda: Least(RISE))

    def rows(self, seconds: float) -> int:
        """The rows that take so many seconds, or as many as one row alone takes: to the nearest number, for a step of
        one row costs more than its share of a step of two."""
        return max(1, round(max(seconds, self.single) / max(self.pace, 1e-9)))

    def learn(self, rows: int, seconds: float, wanted: float, busy: bool) -> None:
        """Takes a step's figures in; it was `wanted` to take so many seconds. The first are forgotten with the second:
        kernels are still being chosen, memory is still being taken. What a step with few rows tells of a row says
        nothing of full ones, unless it took too long already."""
        rate, limit = seconds / rows, self.rows(wanted)
        long = seconds > LONG * max(wanted, self.single)
        self.steps += 1
        self.probe -= 1
        if self.steps <= 2:
            self.seconds = self.pace = rate
            self.single = seconds
            return
        self.seconds = (rate + self.seconds) / 2
        self.single = (seconds + self.single) / 2 if rows == 1 else min(seconds, self.single)
        if rows > limit:
            if rate < BETTER * self.pace:
                self.pace = rate
            more = self.rows(wanted) > limit
            self.probe = PROBE if more else PROBE_AGAIN
            self.settled = not (more or busy)
        elif rows == limit or long:
            self.pace = (rate + self.pace) / 2
