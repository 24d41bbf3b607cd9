"""What a worker's device is at, in memory that outlives the worker: read when it has ended, it says whose doing that
may have been."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterable
from pathlib import Path

NUMBERS = 500
"""Jobs at work that are written down; a step has fewer."""
_HEAD = struct.Struct("<dq")
_SIZE = _HEAD.size + 8 * NUMBERS


class Record:
    """A file of that name, made if there is none, or none that is whole: the disk may have been full. One process
    writes, another one reads."""

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < _SIZE:
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)

    def write(self, numbers: Iterable[int]) -> None:
        """These jobs are at work from now on."""
        some = list(numbers)[:NUMBERS]
        struct.pack_into(f"<{len(some)}q", self._memory, _HEAD.size, *some)
        _HEAD.pack_into(self._memory, 0, time.monotonic(), len(some))

    def read(self) -> tuple[float, frozenset[int]]:
        """Since when which jobs are at work, on the monotonic clock, which all processes share."""
        since, count = _HEAD.unpack_from(self._memory)
        return since, frozenset(struct.unpack_from(f"<{count}q", self._memory, _HEAD.size))

    def clear(self) -> None:
        """Nothing is at work."""
        self.write(())
