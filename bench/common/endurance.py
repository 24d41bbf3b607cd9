"""What a server keeps of the calls that it has answered: resident memory, open files, threads."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightwell import AsyncClient, GradCam, Occlusion, Pgd, Saliency
from lightwell.serving import bundled, served

IN_FLIGHT = 8
GIVEN_UP = 0.25
"""The share of the calls that their caller means to cancel. About a fifth of these are answered before."""
SETTLING = 2.0
"""Seconds between the last call and a look at the process: cancelled calls end at their next step."""
EXPLAINED = {"saliency": Saliency(), "grad_cam": GradCam(), "occlusion": Occlusion()}
METHODS = (*EXPLAINED, "pgd")


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    megabytes: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Of a running process, by Linux's account."""
        process = Path(f"/proc/{pid}")
        fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(
            megabytes=int(fields["VmRSS"].split()[0]) / 1024,
            files=len(list((process / "fd").iterdir())),
            threads=int(fields["Threads"]),
        )


@dataclass(frozen=True)
class Endurance:
    """What a server holds after a tenth of the calls and after all; how many calls were answered and cancelled."""

    early: Usage
    late: Usage
    ends: Counter[str]


def endurance(calls: int) -> Endurance:
    """Asks the bundled model so many times, by all methods in turn, IN_FLIGHT at a time, and gives a share of the
    calls up at random moments. Raises whatever an uncancelled call raises."""
    with served(bundled()) as server:
        return asyncio.run(_endure(server.address, server.process.pid, calls))


async def _endure(address: str, pid: int, calls: int) -> Endurance:
    async with AsyncClient(address) as client:
        caller = Caller(client)
        early = await caller.usage_after(calls // 10, pid)
        late = await caller.usage_after(calls - calls // 10, pid)
        return Endurance(early, late, caller.ends)


class Caller:
    """Asks, and sometimes does not wait. `ends` counts how its calls ended."""

    def __init__(self, client: AsyncClient) -> None:
        self.ends: Counter[str] = Counter()
        self._client, self._rng = client, random.Random(0)
        self._picture = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
        self._usual = dict.fromkeys(METHODS, 0.1)

    async def usage_after(self, calls: int, pid: int) -> Usage:
        """What the server holds after so many calls more."""
        numbers = iter(range(calls))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(self._ask(numbers))
        await asyncio.sleep(SETTLING)
        return Usage.of(pid)

    async def _ask(self, numbers: Iterator[int]) -> None:
        """One call after the other, a random method each, until the numbers end."""
        loop = asyncio.get_running_loop()
        for _ in numbers:
            method, began = self._rng.choice(METHODS), loop.time()
            call = asyncio.ensure_future(self._call(method))
            if self._rng.random() < GIVEN_UP:
                await asyncio.wait([call], timeout=self._rng.uniform(0, self._usual[method]))
                call.cancel()
                await asyncio.wait([call])
            if not call.cancelled():
                await call
                self._usual[method] = loop.time() - began
            self.ends["cancelled" if call.cancelled() else "answered"] += 1

    async def _call(self, method: str) -> None:
        if method == "pgd":
            await self._client.synthesize(Pgd(), image=self._picture, fit="exact").result()
        else:
            await self._client.explain(self._picture, EXPLAINED[method], fit="exact")
