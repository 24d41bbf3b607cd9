"""The limits of this process's control group: memory, processors, and the count of processes killed for lack of memory.

Version 1 and version 2, also both at once. A group is bound by its own limits and by those of all groups above it. A
container may see its own group as the root, or not see its path at all: then the mount is used instead. What cannot be
read is no limit. `root` is the root of the file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_NONE = 2**62
"""In version 1, this many bytes or more mean that there is no limit."""


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the group may use; None without a limit."""
    return min((limit for _, limit in _limited(root)), default=None)


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that can still be allocated: the least of what the machine and the group's limits leave. None if the system
    does not report it."""
    machine = _fields(root / "proc/meminfo").get("MemAvailable:")
    left = [max(0, limit - _used(level)) for level, limit in _limited(root)]
    return min(left if machine is None else [machine * 1024, *left], default=None)


def processors(root: Path = ROOT) -> int:
    """Whole processors that this process may use, at least one: those of its affinity mask, or the quota of the
    group."""
    quotas = (quota for level in _levels(root, "cpu") if (quota := _quota(level)) is not None)
    return max(1, int(min((len(os.sched_getaffinity(0)), *quotas))))


def memory_kills(root: Path = ROOT) -> int | None:
    """How many processes the system has killed for lack of memory: in this group, else on this machine. None if the
    system does not report it."""
    inmost_first = reversed(list(_levels(root, "memory")))
    files = [level / name for level in inmost_first for name in ("memory.events", "memory.oom_control")]
    counts = (_fields(file).get("oom_kill") for file in (*files, root / "proc/vmstat"))
    return next((count for count in counts if count is not None), None)


def _limited(root: Path) -> Iterator[tuple[Path, int]]:
    """The directories of the group and its ancestors that have a memory limit, with the limit."""
    for level in _levels(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(level / name)
            if limit is not None and limit < _NONE:
                yield level, limit


def _used(level: Path) -> int:
    """Bytes that a group uses, without inactive file cache, which is freed when memory is needed."""
    stat = _fields(level / "memory.stat")
    if (used := _number(level / "memory.current")) is not None:
        return used - stat.get("inactive_file", 0)
    return (_number(level / "memory.usage_in_bytes") or 0) - stat.get("total_inactive_file", 0)


def _quota(level: Path) -> float | None:
    """How many processors a group may use."""
    words = _text(level / "cpu.max").split() or [
        _text(level / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    try:
        quota, period = map(int, words)
    except ValueError:  # missing, or "max"
        return None
    return quota / period if quota > 0 and period > 0 else None


def _levels(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's group for a controller, and of its ancestors, from the mount downwards. Some
    may not exist."""
    mount = root / "sys/fs/cgroup"
    yield from (mount, mount / "unified", mount / controller)
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        mounts = [mount, mount / "unified"] if not names else [mount / names, mount / controller]
        parts = path.strip("/").split("/")
        if ".." in parts or (names and controller not in names.split(",")):
            continue  # a group outside of the mount, or another controller's
        for top in mounts:
            yield from (top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _fields(path: Path) -> dict[str, int]:
    """The numbers of lines that begin with `name number`, by name."""
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")  # the path of a group may contain any bytes
    except OSError:
        return ""
