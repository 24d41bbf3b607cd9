"""Connections take all the files that a server may have open, and a worker is killed: the gateway lives, and a worker
comes when they are closed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import grpc

from bench.common.confined import environment
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.operator import Operator, all_ready, operator, send
from bench.common.proof import Counts, Proof
from bench.common.table import Goal
from lightwell import AsyncClient, LightwellError, Saliency
from lightwell.demo import SAMPLES
from lightwell.serving import Server, bundled, served

FILES = 256
"""That a process of the server may have open."""
FLAGS = ("--workers", "1", "--threads", "1")
CONNECTIONS = ("--max-connections", str(2 * FILES))
"""More than the files allow; of itself a server takes fewer, and keeps the others for its workers."""
BACK = 40.0
"""Seconds in which there is a worker again: the longest pause before one is started, and its start."""
PATIENCE = 120.0
"""Seconds after which no worker is expected any more."""


def prove(seconds: float) -> Proof:
    """Keeps all files taken for up to so many seconds, a fifth of a minute at most."""
    with (
        environment(BENCH_FILES=str(FILES)),
        served(bundled(), *FLAGS, *CONNECTIONS, *SHORT_GRACE, module="bench.common.confined") as server,
    ):
        taken, goals = asyncio.run(_prove(server, min(seconds, 12.0)))
        goals.append(ended("files", server))
    return Proof("files", counted(goals), goals, [f"{taken} of {FILES} files were open when the worker was killed"])


async def _prove(server: Server, seconds: float) -> tuple[int, list[Goal]]:
    async with AsyncClient(server.address) as client, operator(server.address) as watching:
        (worker,) = await watching.until(all_ready)
        with ExitStack() as connections:
            taken = await asyncio.to_thread(_take, server, connections)
            send(worker.pid, signal.SIGKILL)
            await asyncio.sleep(seconds)
        back = await until_back(server, client, watching, worker.pid)
    return taken, [
        Goal("files: open when the worker was killed", taken, FILES - 2, True, "d"),
        lives("files", server),
        Goal("files: until a worker was back", back, BACK, False, ".1f", " s"),
    ]


async def until_back(server: Server, client: AsyncClient, watching: Operator, gone: int) -> float:
    """Seconds until there is a worker instead of one that has gone, and answers; for ever if there is none."""
    began = time.perf_counter()
    while server.process.poll() is None and time.perf_counter() - began < PATIENCE:
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError, LightwellError):
            await watching.until(lambda now: all_ready(now) and now[0].pid != gone, PATIENCE)
            await client.explain(SAMPLES / "star.png", Saliency())
            return time.perf_counter() - began
        await asyncio.sleep(1)  # connections that were refused are tried again
    return math.inf


def counted(goals: list[Goal]) -> Counts:
    """The one request that is asked when a worker is back."""
    answered = sum(goal.figure < math.inf for goal in goals if "was back" in goal.name)
    return Counts(1, answered, 0, 0, 1 - answered)


def _take(server: Server, connections: ExitStack) -> int:
    """Opens connections until the gateway has no more files; returns how many it has open."""
    host, port = server.address.rsplit(":", 1)
    for _ in range(2 * FILES):
        connections.enter_context(socket.create_connection((host, int(port)), timeout=5))
    time.sleep(1)
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
