"""Files that are read again when they change: certificates, keys, tokens, aliases."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightwell_server.observability.metrics import GatewayMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")
EVERY = 1.0
"""Seconds between two checks of the files."""


_ALL: weakref.WeakSet[Watched[Any]] = weakref.WeakSet()


def reload() -> None:
    """Reads all files again now, even if they seem unchanged."""
    for watched in list(_ALL):
        watched.reload()


class Watched(Generic[T]):
    """The result of `read()` on files that may change. If they cannot be read, the last result stays in force, and the
    error is logged."""

    def __init__(
        self, what: str, files: Sequence[Path], read: Callable[[], T], metrics: GatewayMetrics | None = None
    ) -> None:
        self._what, self._files, self._read = what, files, read
        self._metrics = metrics or GatewayMetrics()
        self._lock = threading.Lock()
        self._stamps, self._looked = self._seen(), time.monotonic()
        self._failed = self._stamps
        self._value = read()
        _ALL.add(self)

    def get(self) -> T:
        """The result for the files as they are now; safe from any thread. While one thread waits for the disk, others
        get the last result."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._looked >= EVERY:
                    self._looked = time.monotonic()
                    self._check()
            finally:
                self._lock.release()
        return self._value

    @property
    def last(self) -> T:
        """The last result; no file is accessed."""
        return self._value

    def reload(self) -> None:
        """Reads the files again."""
        with self._lock:
            self._failed = []  # errors are logged again
            self._read_again(self._seen())

    def _check(self) -> None:
        stamps = self._seen()
        if stamps != self._stamps:
            self._read_again(stamps)

    def _read_again(self, stamps: list[tuple[int, int, int] | None]) -> None:
        try:
            self._value = self._read()
        except Exception as error:  # files are replaced one after the other: the next check may find them complete
            if stamps != self._failed:
                log.error("%s cannot be read again, the old ones stay: %s", self._what, error)
                self._metrics.reloads.labels(self._what, "failed").inc()
            self._failed = stamps
        else:
            self._stamps = stamps
            log.info("%s were read again", self._what)
            self._metrics.reloads.labels(self._what, "done").inc()

    def _seen(self) -> list[tuple[int, int, int] | None]:
        """A stamp of each file, by which changes are detected; None for one that cannot be accessed."""
        found: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                stat = file.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found
