"""What the processes of a server hold and use, by Linux's account."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench.common.endurance import Usage

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Family:
    """A server's gateway and all that it has started, by their process ids."""

    gateway: int

    @property
    def workers(self) -> list[int]:
        """Those that live now, and the processes that start them."""
        return _descendants(self.gateway)

    def usage(self) -> Usage:
        """What all of them hold together."""
        each = [Usage.of(pid) for pid in (self.gateway, *self.workers)]
        return Usage(sum(u.megabytes for u in each), sum(u.files for u in each), sum(u.threads for u in each))

    def seconds(self) -> tuple[float, float]:
        """Processor seconds of the gateway, and of its workers."""
        return processor_seconds(self.gateway), sum(map(processor_seconds, self.workers))


def _descendants(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return [*children, *(far for child in children for far in _descendants(child))]


def processor_seconds(pid: int) -> float:
    """Processor seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
