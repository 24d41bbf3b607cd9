"""Open files of this process: how many there may be, and some that are held for when there are no others."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

KEPT = 256
"""Descriptors that are not for connections: of workers, of files that are read, of what is held in reserve."""
HELD = 32
"""Descriptors that a reserve holds; the start of a process takes less than half of them."""


def raise_limit() -> None:
    """Lets this process, and those that it starts, open as many files as the system allows them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections() -> int:
    """How many connections the files allow: all but the kept ones, and half of them where there are few."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**31 - 1 if soft == resource.RLIM_INFINITY else min(soft, 2**31 - 1)
    return max(most // 2, most - KEPT)


def room(count: int) -> None:
    """Raises OSError if fewer files than that can be opened now: who needs several opens none in vain."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, _null())


class Reserve:
    """Descriptors that are held so that they can be given back when others are needed."""

    def __init__(self, count: int = HELD) -> None:
        self._count, self._held, self._users = count, list[int](), 0
        self._take()

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """They are free inside, and held again afterwards, as many as there are then."""
        self._users += 1
        self.close()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._take()

    def close(self) -> None:
        """Holds none of them."""
        while self._held:
            os.close(self._held.pop())

    def _take(self) -> None:
        with contextlib.suppress(OSError):  # those that there are not now are taken the next time
            while len(self._held) < self._count:
                self._held.append(_null())


def _null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
