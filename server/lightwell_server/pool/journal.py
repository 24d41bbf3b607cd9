"""A record of what a worker's device executes, in memory that outlives the worker: after a crash it says which requests
may have caused it."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

NUMBERS = 500
"""Executing jobs that are recorded; a step has fewer."""
_WORD = 8
_SLOT = 2 + NUMBERS
"""Words of one record: the time, the number of jobs, and their numbers."""
_SIZE = _WORD * (1 + 2 * _SLOT)


class CrashJournal:
    """A memory-mapped file. It is created if it does not exist or is too short, as after a full disk. One process
    writes, another one reads. The first word counts the records, which alternate between two places: the last record
    stays intact while the next one is written, even if the writer ends then."""

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < _SIZE:
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("q")

    def write(self, numbers: Iterable[int]) -> None:
        """Records that these jobs execute from now on."""
        count, some = self._words[0] + 1, list(islice(numbers, NUMBERS))
        at = _place(count)
        self._words[at] = time.monotonic_ns()
        self._words[at + 1] = len(some)
        for offset, number in enumerate(some, at + 2):
            self._words[offset] = number
        self._words[0] = count

    def read(self) -> tuple[float, frozenset[int]]:
        """Which jobs execute and since when, in seconds of the monotonic clock, which all processes share."""
        while True:
            count = self._words[0]
            at = _place(count)
            since, some = self._words[at], self._words[at + 2 : at + 2 + self._words[at + 1]].tolist()
            if self._words[0] == count:  # otherwise the record may have been overwritten meanwhile
                return since / 1e9, frozenset(some)

    def clear(self) -> None:
        """Records that nothing executes."""
        self.write(())


def _place(count: int) -> int:
    """The word at which the `count`-th record begins."""
    return 1 + _SLOT * (count % 2)
