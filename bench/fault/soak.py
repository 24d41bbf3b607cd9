"""A mixed load for half an hour: no process of the server grows."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import numpy as np

from bench.callers.mixed import Load, questions, undisturbed
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.endurance import Usage
from bench.common.operator import all_ready, operator
from bench.common.processes import Family
from bench.common.proof import Proof, none
from bench.common.table import Goal, table
from bench.fault.kill import FLAGS
from lightwell import AsyncClient
from lightwell.serving import Server, bundled, served

USUAL = 1800.0
"""Seconds of the load if nothing else is asked."""
FIRST = 300.0
"""Seconds at the beginning that are not looked at; of a shorter load a third."""
EVERY = 1.0
"""Seconds between two looks."""
GROWTH = 1.0
"""MiB a minute by which a process may grow."""
PICTURES = 60.0
"""Seconds of load for which there are enough different questions."""
Samples = dict[int, list[tuple[float, float]]]
"""Minutes since the start and MiB, by process."""


def prove(seconds: float) -> Proof:
    """Asks for so many seconds; the SDK repeats nothing."""
    with served(bundled(), *FLAGS, *SHORT_GRACE) as server:
        load, samples = asyncio.run(_soaked(server, seconds))
        alive, last = lives("soak", server), ended("soak", server)
    first = min(FIRST, seconds / 3)
    slopes = {pid: _slope([sample for sample in found if 60 * sample[0] >= first]) for pid, found in samples.items()}
    goals = [
        Goal("soak: growth of a process, at most", max(slopes.values()), GROWTH, False, ".2f", " MiB/min"),
        none("soak: requests lost", load.counts.lost),
        none("soak: answers other than an undisturbed server's", len(load.wrong)),
        alive,
        last,
    ]
    names = ["gateway", *(f"process {number} that it started" for number in range(1, len(samples)))]
    rows = [
        (name, f"{found[0][1]:.0f} MiB", f"{found[-1][1]:.0f} MiB", f"{slopes[pid]:+.2f} MiB/min")
        for name, (pid, found) in zip(names, samples.items(), strict=True)
    ]
    notes = [
        f"{seconds / 60:.1f} minutes, growth from the end of minute {first / 60:.1f} on",
        *table(("process", "at first", "at last", "growth"), rows).splitlines(),
        *load.notes(),
    ]
    return Proof("soak", load.counts, goals, notes)


async def _soaked(server: Server, seconds: float) -> tuple[Load, Samples]:
    family, samples = Family(server.process.pid), defaultdict(list)
    async with AsyncClient(server.address, retries=0) as client, operator(server.address) as watching:
        await watching.until(all_ready)
        load = Load(client, await undisturbed(client, questions(min(seconds, PICTURES))))
        pids, began = [family.gateway, *family.workers], time.monotonic()
        async with load.running():
            while (passed := time.monotonic() - began) < seconds:
                for pid in pids:
                    samples[pid].append((passed / 60, Usage.of(pid).megabytes))
                await asyncio.sleep(EVERY)
    return load, dict(samples)


def _slope(samples: list[tuple[float, float]]) -> float:
    """MiB a minute by least squares."""
    minutes, held = np.array(samples).T
    return float(np.polyfit(minutes, held, 1)[0])
