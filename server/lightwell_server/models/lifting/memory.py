"""How much memory is left to this process."""

from __future__ import annotations

from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can still be taken: what the machine has left, or what a container's limit leaves. None where the
    system does not tell."""
    left = [bytes for bytes in (_machine(), _container()) if bytes is not None]
    return min(left, default=None)


def _machine() -> int | None:
    lines = _MEMORY.read_text().splitlines() if _MEMORY.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container() -> int | None:
    limit, used = _GROUP / "memory.max", _GROUP / "memory.current"
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return None
    return max(0, int(limit.read_text()) - int(used.read_text()))
