"""The hither side of `bench.callers.arrivals`: callers in a process of their own, and how their calls ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

TOO_SHORT = "DEADLINE_EXCEEDED DEADLINE_TOO_SHORT"


@dataclass(frozen=True)
class Ended:
    """The seconds of calls by how they ended; `behind` is how late they were sent at most; `seconds` how long it all
    took."""

    ends: Mapping[str, Sequence[float]]
    behind: float
    seconds: float

    @property
    def answered(self) -> Sequence[float]:
        """Of those that were answered in time."""
        return self.ends.get("answered", ())

    @property
    def late(self) -> Sequence[float]:
        """Of those that were let in and not answered in time."""
        return self.ends.get("late", ())

    @property
    def refused(self) -> list[float]:
        """Of those that were turned away with a reason."""
        ends = [end for end in self.ends if end == TOO_SHORT or end.startswith("RESOURCE_EXHAUSTED ")]
        return [seconds for end in ends for seconds in self.ends[end]]

    @property
    def sent(self) -> int:
        """How many there were."""
        return sum(map(len, self.ends.values()))

    def line(self) -> str:
        """How many ended how."""
        return ", ".join(f"{len(seconds):,} {end}" for end, seconds in sorted(self.ends.items()))


@dataclass(frozen=True)
class Crowd:
    """Callers whose process is `pid`."""

    pid: int
    do: Callable[..., Ended]

    def closed(self, in_flight: int, seconds: float) -> Ended:
        """So many calls at a time, for so long."""
        return self.do(in_flight=in_flight, seconds=seconds)

    def open(self, rate: float, seconds: float, within: float, told: bool = True) -> Ended:
        """So many calls a second by a clock, for so long; see `bench.callers.arrivals`."""
        return self.do(rate=rate, seconds=seconds, within=within, told=told)


@contextmanager
def crowd(address: str, *options: str) -> Iterator[Crowd]:
    """A process of callers; `options` are those of `bench.callers.arrivals`."""
    command = [sys.executable, "-m", "bench.callers.arrivals", address, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        to, back = process.stdin, process.stdout
        yield Crowd(process.pid, lambda **task: _done(to, back, task))
        to.close()


def _done(to: IO[str], back: IO[str], task: Mapping[str, Any]) -> Ended:
    print(json.dumps(task), file=to, flush=True)
    return Ended(**json.loads(back.readline()))


def p50(seconds: Sequence[float]) -> float:
    """The median."""
    return float(np.median(seconds))


def p99(seconds: Sequence[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(seconds, 99))
