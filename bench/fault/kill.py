"""A random worker is killed again and again under a mixed load."""

from __future__ import annotations

import asyncio
import random
import signal

from bench.callers.mixed import Load, questions, undisturbed
from bench.common.operator import Operator, all_ready, operator, send
from bench.common.proof import Proof, none
from bench.common.table import Goal
from lightwell import AsyncClient
from lightwell.serving import bundled, served

FLAGS = ("--workers", "2", "--threads", "1")
EVERY = 5.0
"""Seconds between two kills."""


def prove(seconds: float) -> Proof:
    """Kills for so many seconds; the SDK repeats nothing."""
    with served(bundled(), *FLAGS) as server:
        return asyncio.run(_prove(server.address, seconds))


async def _prove(address: str, seconds: float) -> Proof:
    async with AsyncClient(address, retries=0) as client, operator(address) as watching:
        await watching.until(all_ready)
        load = Load(client, await undisturbed(client, questions(seconds)))
        async with load.running():
            killed = await _kill(watching, seconds, min(EVERY, seconds / 2))
    goals = [
        Goal("kill: workers killed", killed, max(1, int(seconds / EVERY) - 1), True, "d"),
        Goal("kill: requests that outlived their worker", load.retried, 1, True, "d"),
        none("kill: requests lost", load.counts.lost),
        none("kill: answers other than an undisturbed server's", len(load.wrong)),
        none("kill: progress that went back", load.back),
    ]
    return Proof("kill", load.counts, goals, [f"{killed} workers were killed", *load.notes()])


async def _kill(watching: Operator, seconds: float, every: float) -> int:
    """Kills a random worker that lives every so often, for so many seconds; returns how many."""
    rng, killed = random.Random(0), 0
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() + every <= end:
        await asyncio.sleep(every)
        living = [worker.pid for worker in await watching.workers() if worker.pid]
        if living:
            killed += send(rng.choice(living), signal.SIGKILL)
    return killed
