"""What device steps have cost, and which of these measurements are reliable. Pure data, like the scheduler that uses
it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

ENOUGH = 4
"""Measurements from which on a request may be refused because of their minimum."""
HALVED = 60.0
"""Half-life in seconds of a minimum without new measurements: a request that is refused because of it adds none."""
RISE = 0.01
"""Largest relative increase of a key's minimum per step."""
PROBE, PROBE_AGAIN = 4, 256
"""Steps of a key between two that try twice its rows: normally, and after one that did not raise the number of rows."""
BETTER, LONG = 0.9, 1.5
"""More rows are taken only if a row of the larger step costs at most `BETTER` of its previous cost. A step that takes
more than `LONG` of the wanted seconds shows that full steps take too long."""


@dataclass(slots=True)
class Least:
    """The minimum of something's cost, by measurements. A lower measurement replaces it, a higher one raises it by at
    most the fraction `rise`, and it decays while there are none."""

    rise: float
    figure: float = math.inf
    count: int = 0
    since: float = 0.0

    def learn(self, seconds: float, now: float) -> None:
        """Adds a measurement that counts as evidence."""
        self.figure, self.since = min(seconds, self.figure * (1 + self.rise)), now
        self.count += 1

    def lower(self, seconds: float) -> None:
        """Lowers the minimum, without counting as evidence."""
        self.figure = min(self.figure, seconds)

    def value(self, now: float) -> float:
        """The minimum that may be relied on; 0 as long as there are too few measurements."""
        return self.figure * 0.5 ** ((now - self.since) / HALVED) if self.count >= ENOUGH else 0.0


@dataclass(slots=True)
class Experience:
    """The recent cost of a key's steps in seconds: of a row in any step (`seconds`), of a row in a full step (`pace`),
    and of a step of one row (`single`). `probe` counts the steps until the next one that tries more rows. `settled`
    says that more rows would not help. `least` is the minimum for a row in full steps."""

    seconds: float = 0.0
    pace: float = 0.0
    single: float = 0.0
    steps: int = 0
    probe: int = PROBE
    settled: bool = False
    least: Least = field(default_factory=lambda: Least(RISE))

    def rows(self, seconds: float) -> int:
        """The rows that fit into `seconds`, or into the time of a step of one row if that is longer. Rounded to the
        nearest number, for a step of one row costs more than half a step of two."""
        return max(1, round(max(seconds, self.single) / max(self.pace, 1e-9)))

    def learn(self, rows: int, seconds: float, wanted: float, busy: bool) -> None:
        """Adds the measurement of a step that should have taken `wanted` seconds. The first step is discarded, for it
        includes the choice of kernels and memory allocation. A step with few rows does not change `pace`, unless it
        took too long."""
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
