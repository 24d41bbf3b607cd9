"""A server in a control group, or with few files to open: `python -m bench.common.confined`, with a server's options.

The environment says what holds it: `BENCH_GROUP` the directory of a control group, `BENCH_FILES` how many files a
process of it may have open."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightwell_server.__main__ import main

MOUNTS = Path("/sys/fs/cgroup")
LINGERING = 10.0
"""Seconds in which the processes of a group that has been left end."""


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Variables for the processes that are started meanwhile; what they were before is kept."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    tempfile.tempdir = None  # it is remembered otherwise
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        tempfile.tempdir = None


class Group:
    """A control group below this process's own that may hold so many bytes of memory. Raises OSError where none can be
    made."""

    def __init__(self, limit: int) -> None:
        lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
        named = {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
        first = "memory" in named
        root = MOUNTS / "memory" if first else MOUNTS
        self.path = root / named["memory" if first else ""].lstrip("/") / f"lightwell-bench-{os.getpid()}"
        self.path.mkdir()
        names = ("limit_in_bytes", "max_usage_in_bytes", "oom_control") if first else ("max", "peak", "events")
        limited, self._peak, self._ends = (self.path / f"memory.{name}" for name in names)
        try:
            limited.write_text(str(limit))
        except OSError:
            self.path.rmdir()
            raise

    @property
    def peak(self) -> int:
        """Bytes that it has held at most, files that were read among them."""
        return int(self._peak.read_text())

    @property
    def killed(self) -> int:
        """Processes that were killed for want of memory."""
        found = dict(line.split() for line in self._ends.read_text().splitlines())
        return int(found.get("oom_kill", 0))

    def remove(self) -> None:
        """Takes it away, once its processes have ended."""
        for _ in range(int(LINGERING * 10)):
            if not (self.path / "cgroup.procs").read_text():
                break
            time.sleep(0.1)
        self.path.rmdir()


if __name__ == "__main__":
    if group := os.environ.get("BENCH_GROUP"):
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    if files := os.environ.get("BENCH_FILES"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    main()
