"""What is measured of a lifting: differences, causes of failures, and memory. It needs no network to compare with."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

from torch import Tensor

from lightwell_server.errors import last_line

SMALL = (96, 96)
"""Height and width compared at in double precision where the file takes any, for that is slow."""


def cause(error: Exception) -> str:
    """What an error was first raised for, in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return last_line(error)


def distance(given: Tensor | None, expected: Tensor) -> float:
    """The largest difference as a share of the largest magnitude expected; infinite between different shapes."""
    if given is None or given.shape != expected.shape:
        return float("inf")
    return float((given - expected).abs().max() / expected.abs().max())


def resident() -> float | None:
    """MB of memory that the process has, when what is free was handed back; its peak is counted from now on. None where
    the system does not tell."""
    gc.collect()
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)
    return rest("self")


def risen(before: float | None) -> float | None:
    """MB that the peak lies above what was resident before."""
    return None if before is None else most("self") - before


def rest(pid: int | str) -> float:
    """MiB of memory that a process of ours on Linux has now; its peak is counted from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status(pid, "VmRSS")


def most(pid: int | str) -> float:
    """MiB that a process on Linux has had at most."""
    return _status(pid, "VmHWM")


def _status(pid: int | str, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
