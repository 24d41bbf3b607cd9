"""Files that are read anew when they change: certificates, keys, tokens."""

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
"""Seconds between two looks at the files."""


_ALL: weakref.WeakSet[Watched[Any]] = weakref.WeakSet()


def reload() -> None:
    """Reads everything anew now, whether or not it seems to have changed."""
    for watched in list(_ALL):
        watched.reload()


class Watched(Generic[T]):
    """What `read()` makes of files. While they cannot be read, what was read last stays in force, and the log tells."""

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
        """What the files say now; safe from any thread. A disk may keep whoever looks waiting: others take what was
        read last meanwhile."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._looked >= EVERY:
                    self._looked = time.monotonic()
                    self._look()
            finally:
                self._lock.release()
        return self._value

    @property
    def last(self) -> T:
        """What the files said when they were read last; no file is touched."""
        return self._value

    def reload(self) -> None:
        """Reads the files anew."""
        with self._lock:
            self._failed = []  # the log tells again what is wrong
            self._read_again(self._seen())

    def _look(self) -> None:
        stamps = self._seen()
        if stamps != self._stamps:
            self._read_again(stamps)

    def _read_again(self, stamps: list[tuple[int, int, int] | None]) -> None:
        try:
            self._value = self._read()
        except Exception as error:  # files are replaced one after the other: the next look may find them whole
            if stamps != self._failed:
                log.error("%s cannot be read again, the old ones stay: %s", self._what, error)
                self._metrics.reloads.labels(self._what, "failed").inc()
            self._failed = stamps
        else:
            self._stamps = stamps
            log.info("%s were read again", self._what)
            self._metrics.reloads.labels(self._what, "done").inc()

    def _seen(self) -> list[tuple[int, int, int] | None]:
        """What tells a file from its successor; None for one that is not there."""
        found: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                stat = file.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found
