"""Open files of this process: their limit, and a reserve for when there are no others."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

KEPT = 256
"""Descriptors that are not for connections, but for workers, files that are read, and the reserve."""
HELD = 32
"""Descriptors of a reserve; the start of a process needs less than half of them."""


def raise_limit() -> None:
    """Raises the limit of open files of this process, and of those that it starts, to what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections() -> int:
    """How many connections the limit of open files allows: all but `KEPT` descriptors, at least half."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**31 - 1 if soft == resource.RLIM_INFINITY else min(soft, 2**31 - 1)
    return max(most // 2, most - KEPT)


def room(count: int) -> None:
    """Raises OSError if fewer than `count` files can be opened now, before the first of several is opened."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, _null())


class Reserve:
    """Descriptors that are held so that they can be released when others are needed."""

    def __init__(self, count: int = HELD) -> None:
        self._count, self._held, self._users = count, list[int](), 0
        self._take()

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """Releases the descriptors during the block, and then takes as many again as are available."""
        self._users += 1
        self.close()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._take()

    def close(self) -> None:
        """Releases all."""
        while self._held:
            os.close(self._held.pop())

    def _take(self) -> None:
        with contextlib.suppress(OSError):  # missing ones are taken the next time
            while len(self._held) < self._count:
                self._held.append(_null())


def _null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
