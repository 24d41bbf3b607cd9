"""Long requests from a process of its own: `python -m bench.callers.load ADDRESS TRANSFERS OCCLUSIONS STRIDE`.

So many style transfers and occlusions are kept at work until the process is ended. It says "at work" once each
transfer has made three steps.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from lightwell import AsyncClient, Occlusion, Style, StyleTransfer
from lightwell.images import to_message

SIZE = 224


async def transfers(client: AsyncClient, content: np.ndarray, style: np.ndarray, begun: asyncio.Semaphore) -> None:
    """One style transfer after the other; the third step of each is told."""
    method = StyleTransfer(styles=[Style(image=to_message(style))], size=SIZE, steps=10_000)
    while True:
        async for progress in client.synthesize(method, image=content):
            if progress.step == 3:
                begun.release()


async def occlusions(client: AsyncClient, picture: np.ndarray, stride: int) -> None:
    """One occlusion after the other."""
    while True:
        await client.explain(picture, Occlusion(stride=stride), fit="exact")


async def keep_at_work(address: str, transferred: int, occluded: int, stride: int) -> None:
    """Asks until the process is ended. Raises what a request raises."""
    style, *rest = np.random.default_rng(0).integers(
        0, 256, (1 + transferred + occluded, 3, SIZE, SIZE), dtype=np.uint8
    )
    begun = asyncio.Semaphore(0)
    async with AsyncClient(address) as client, asyncio.TaskGroup() as tasks:
        for content in rest[:transferred]:
            tasks.create_task(transfers(client, content, style, begun))
        for picture in rest[transferred:]:
            tasks.create_task(occlusions(client, picture, stride))
        for _ in range(transferred):
            await begun.acquire()
        print("at work", flush=True)


if __name__ == "__main__":
    asyncio.run(keep_at_work(sys.argv[1], *map(int, sys.argv[2:])))
