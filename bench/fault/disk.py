"""The disk of temporary files is full, and a worker is killed: the gateway lives, and a worker comes when there is
room."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
from pathlib import Path

from bench.common.confined import environment
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.operator import all_ready, operator, send
from bench.common.proof import Counts, Proof
from bench.common.table import Goal
from bench.fault.files import BACK, FLAGS, counted, until_back
from lightwell import AsyncClient
from lightwell.serving import Server, bundled, served

SIZE = "1m"


def prove(seconds: float) -> Proof:
    """Keeps the disk full for up to so many seconds, a fifth of a minute at most."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return _not_measured(str(error))
        if done.returncode:
            return _not_measured(done.stderr.strip())
        try:
            return _proved(Path(folder), min(seconds, 12.0))
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def _not_measured(why: str) -> Proof:
    return Proof("disk", Counts(0, 0, 0, 0, 0), [], [f"NOT MEASURED here: no disk could be mounted: {why}"])


def _proved(disk: Path, seconds: float) -> Proof:
    with environment(TMPDIR=str(disk)), served(bundled(), *FLAGS, *SHORT_GRACE) as server:
        goals = [*asyncio.run(_prove(server, disk / "full", seconds)), ended("disk", server)]
    note = f"a disk of {SIZE}, on which the server's log stands, too, was full when the worker was killed"
    return Proof("disk", counted(goals), goals, [note])


async def _prove(server: Server, file: Path, seconds: float) -> list[Goal]:
    async with AsyncClient(server.address) as client, operator(server.address) as watching:
        (worker,) = await watching.until(all_ready)
        _fill(file)
        send(worker.pid, signal.SIGKILL)
        await asyncio.sleep(seconds)
        file.unlink()
        back = await until_back(server, client, watching, worker.pid)
    return [Goal("disk: until a worker was back", back, BACK, False, ".1f", " s"), lives("disk", server)]


def _fill(file: Path) -> None:
    """Writes until there is no room."""
    with file.open("wb", buffering=0) as full:
        try:
            while full.write(b"x" * 4096):
                pass
        except OSError:
            return
