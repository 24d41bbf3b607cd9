"""A caller without measure, in a process of its own: `python -m bench.callers.flooder ADDRESS TOKEN STREAMS`.

So many style transfers at a time, another one at once whenever one ends or is refused, until its input ends; it says
"at work" once a transfer has made its third step. Last it tells how many calls ended how, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import numpy as np

from lightwell import AsyncClient, LightwellError, Style, StyleTransfer
from lightwell.images import to_message

SIZE = 112
STEPS = 500


async def transfers(client: AsyncClient, ends: Counter[str], begun: asyncio.Event) -> None:
    """One transfer after the other."""
    content, style = np.random.default_rng(0).integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8)
    method = StyleTransfer(styles=[Style(image=to_message(style))], size=SIZE, steps=STEPS)
    while True:
        try:
            async for progress in client.synthesize(method, image=content):
                if progress.step == 3:
                    begun.set()
            ends["answered"] += 1
        except LightwellError as error:
            ends[error.reason or error.code.name] += 1


async def flood(address: str, token: str, streams: int) -> None:
    """Asks until the input ends."""
    ends, begun = Counter[str](), asyncio.Event()
    async with AsyncClient(address, token=token, retries=0) as client:
        tasks = [asyncio.create_task(transfers(client, ends, begun)) for _ in range(streams)]
        await begun.wait()
        print("at work", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    print(json.dumps({**ends, "open": streams}), flush=True)


if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], sys.argv[2], int(sys.argv[3])))
