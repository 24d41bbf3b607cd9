"""A worker is stopped and does not answer, though it is there."""

from __future__ import annotations

import asyncio
import signal

from bench.callers.mixed import Load, questions, undisturbed
from bench.common.operator import Operator, all_ready, operator, send
from bench.common.proof import Proof, none
from bench.common.table import Goal
from bench.fault.kill import FLAGS
from lightwell import AsyncClient
from lightwell.serving import bundled, served

HEALTH = 3.0
"""Seconds after which a worker that does not answer is to be replaced."""
LOOK = 2.0
"""Seconds that a look at a worker may be late."""


def prove(seconds: float) -> Proof:
    """Stops one worker after the other for so many seconds; the SDK repeats nothing."""
    with served(bundled(), *FLAGS, "--worker-health-seconds", str(HEALTH)) as server:
        return asyncio.run(_prove(server.address, seconds))


async def _prove(address: str, seconds: float) -> Proof:
    loop = asyncio.get_running_loop()
    async with AsyncClient(address, retries=0) as client, operator(address) as watching:
        await watching.until(all_ready)
        load, noticed = Load(client, await undisturbed(client, questions(seconds))), []
        async with load.running():
            end = loop.time() + seconds
            while not noticed or loop.time() < end:
                noticed.append(await _stop(watching))
    goals = [
        Goal("stop: until it is noticed, at most", max(noticed), HEALTH + LOOK, False, ".1f", " s"),
        Goal("stop: requests that outlived their worker", load.retried, 1, True, "d"),
        none("stop: requests lost", load.counts.lost),
        none("stop: answers other than an undisturbed server's", len(load.wrong)),
        none("stop: progress that went back", load.back),
    ]
    return Proof("stop", load.counts, goals, [f"{len(noticed)} workers were stopped", *load.notes()])


async def _stop(watching: Operator) -> float:
    """Stops a worker that has something to do; lets it go on when it has been replaced, whether or not it is still
    there. Returns the seconds until that was noticed."""
    loop = asyncio.get_running_loop()
    workers = await watching.until(lambda workers: any(worker.jobs for worker in workers) and all_ready(workers))
    victim = max(workers, key=lambda worker: worker.jobs)
    began = loop.time()
    send(victim.pid, signal.SIGSTOP)
    await watching.until(lambda workers: victim.pid not in {worker.pid for worker in workers})
    noticed = loop.time() - began
    send(victim.pid, signal.SIGCONT)
    await watching.until(all_ready)
    return noticed
