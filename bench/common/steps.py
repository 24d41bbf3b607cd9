"""How long the device steps of a server with one worker are, by the record that is kept of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightwell_server.pool.journal import CrashJournal

EVERY = 0.002
"""Seconds between two looks."""


@contextmanager
def longest(pid: int) -> Iterator[list[float]]:
    """Watches meanwhile, by the gateway's process id: gives a list that holds the seconds of the longest step so far,
    to within EVERY."""
    (path,) = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if ".record" in line}
    record, found, over = CrashJournal(Path(path)), [0.0], threading.Event()

    def watch() -> None:
        began, at_work = record.read()
        while not over.wait(EVERY):
            since, jobs = record.read()
            if since != began and at_work:
                found[0] = max(found[0], since - began)
            began, at_work = since, jobs

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
