"""What a worker's device is at, in memory that outlives the worker: read when it has ended, it says whose doing that
may have been."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

NUMBERS = 500
"""Jobs at work that are written down; a step has fewer."""
_WORD = 8
_SLOT = 2 + NUMBERS
"""Words of what is at work: since when, how many jobs, and their numbers."""
_SIZE = _WORD * (1 + 2 * _SLOT)


class CrashJournal:
    """A file of that name, made if there is none, or none that is whole: the disk may have been full. One process
    writes, another one reads. Its first word counts what was written, in two places by turns: the last one stays whole
    while the next one is written, even if the writer ends then."""

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < _SIZE:
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("q")

    def write(self, numbers: Iterable[int]) -> None:
        """These jobs are at work from now on."""
        count, some = self._words[0] + 1, list(islice(numbers, NUMBERS))
        at = _place(count)
        self._words[at] = time.monotonic_ns()
        self._words[at + 1] = len(some)
        for offset, number in enumerate(some, at + 2):
            self._words[offset] = number
        self._words[0] = count

    def read(self) -> tuple[float, frozenset[int]]:
        """Since when which jobs are at work, in seconds of the monotonic clock, which all processes share."""
        while True:
            count = self._words[0]
            at = _place(count)
            since, some = self._words[at], self._words[at + 2 : at + 2 + self._words[at + 1]].tolist()
            if self._words[0] == count:  # else it may have been written over meanwhile
                return since / 1e9, frozenset(some)

    def clear(self) -> None:
        """Nothing is at work."""
        self.write(())


def _place(count: int) -> int:
    """The word at which stands what was written as the `count`-th."""
    return 1 + _SLOT * (count % 2)
