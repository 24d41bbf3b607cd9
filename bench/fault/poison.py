"""A request that ends each worker that runs it, among good ones."""

from __future__ import annotations

import asyncio
from itertools import cycle, islice

from bench.callers.mixed import Load, questions, undisturbed
from bench.common.operator import all_ready, operator
from bench.common.proof import Counts, Proof, none
from bench.common.table import Goal
from bench.fault.kill import FLAGS
from bench.fault.poisoned_worker import ABORT
from lightwell import AsyncClient, LightwellError, Saliency
from lightwell.demo import SAMPLES
from lightwell.serving import bundled, served

GOOD, FULL = 100, 60.0
"""Good requests, in a proof of so many seconds; in a shorter one as many less."""
DEATHS = 3
"""Workers that one request may end: one beside others, and two alone. A signal that could have come from outside is
believed to have once more."""


def prove(seconds: float) -> Proof:
    """Sends a poisonous request in the midst of good ones."""
    with served(bundled(), *FLAGS, module="bench.fault.poisoned") as server:
        return asyncio.run(_prove(server.address, seconds))


async def _prove(address: str, seconds: float) -> Proof:
    good = max(10, round(GOOD * min(1, seconds / FULL)))
    async with AsyncClient(address, retries=0) as client, operator(address) as watching:
        await watching.until(all_ready)
        asked = [question for question in questions(seconds) if question.name != "occlusion streamed"]
        load = Load(client, await undisturbed(client, asked))
        asking = asyncio.create_task(load.ask_all(islice(cycle(asked), good)))
        while load.answered < good // 3:
            await asyncio.sleep(0.01)
        end = await swallow(client, ABORT)
        await asking
        died = sum(worker.restarts for worker in await watching.until(all_ready))
    refused = end == "POISONED"
    counts = Counts(load.sent + 1, load.answered, load.retried, int(refused), load.counts.lost + (not refused))
    goals = [
        Goal("poison: poisonous requests refused as such", int(refused), 1, True, "d"),
        Goal("poison: workers that it ended", died, DEATHS, False, "d"),
        none("poison: requests lost", counts.lost),
        none("poison: answers other than an undisturbed server's", len(load.wrong)),
    ]
    return Proof("poison", counts, goals, [f"the poisonous request was told {end}", *load.notes()])


async def swallow(client: AsyncClient, seed: int) -> str:
    """Sends poison; returns the reason that it is told."""
    try:
        await client.explain(SAMPLES / "star.png", Saliency(), seed=seed)
    except LightwellError as error:
        return error.reason or error.code.name
    return "an answer"
