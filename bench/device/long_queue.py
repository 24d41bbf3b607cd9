"""What a step costs the scheduler, by how many jobs are in line."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

from lightwell_server.engine.scheduler import Scheduler, Ticket

KEYS = 8
"""Keys that the jobs are spread over."""


@dataclass(eq=False, slots=True)
class Caller:
    """As much of a job as the scheduler knows."""

    caller: str = ""
    attained: float = 0.0
    deadline: float = math.inf
    gone: bool = False


class LongQueue:
    """A scheduler with so many jobs in line that never end. Each step takes one row, the dearest case: no other
    request shares its cost."""

    def __init__(self, jobs: int) -> None:
        self.scheduler = Scheduler(max_rows=1)
        self._now = 0.0
        self._seconds = itertools.cycle([random.Random(seed).uniform(0.01, 0.1) for seed in range(997)])
        for i in range(jobs):
            self.scheduler.add(Ticket(Caller(), i % KEYS, rows=10**9), self._now)
        self.run(2 * jobs)

    def run(self, steps: int) -> None:
        """So many steps: each takes a job out of the line, charges it, and thereby adds it again."""
        for _ in range(steps):
            take = self.scheduler.take(self._now)
            seconds = next(self._seconds)
            self._now += seconds
            self.scheduler.charge(take, seconds, self._now)
