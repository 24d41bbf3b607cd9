"""Many callers in one process: `python -m bench.callers.swarm ADDRESS`.

Its input is a task as JSON: the `tokens` of the callers, the `files` that each sends in turn, from another one on than
the caller before it, how many calls each has `in_flight`, how many seconds lie between two of those at least
(`every`), and the `stride` of the occlusions that are asked; 0 asks saliency maps. It says "at work", goes on until
there is a second line, and tells how many calls ended how, as JSON; those that are under way then are "open".
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

from lightwell import AsyncClient, LightwellError, Occlusion, Saliency

PAUSE = 0.05
"""Seconds between a refusal and the next call of who was refused."""


async def _ask(client: AsyncClient, files: Iterator[bytes], stride: int, every: float, ends: Counter[str]) -> None:
    method = Occlusion(stride=stride) if stride else Saliency()
    for file in files:
        began = time.monotonic()
        try:
            await client.explain(file, method)
            ends["answered"] += 1
        except LightwellError as error:
            ends[f"{error.code.name} {error.reason}".strip()] += 1
            await asyncio.sleep(PAUSE)
        if every:
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))


async def swarm(
    address: str, tokens: Sequence[str], files: Sequence[str], in_flight: int, stride: int, every: float
) -> dict[str, int]:
    """Asks until there is another line."""
    contents = [Path(file).read_bytes() for file in files]
    clients = [AsyncClient(address, token=token, retries=0) for token in tokens]
    ends = Counter[str]()
    calls = [
        asyncio.create_task(_ask(client, islice(cycle(contents), number, None), stride, every, ends))
        for number, client in enumerate(clients * in_flight)
    ]
    print("at work", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    ends["open"] = len(calls)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await asyncio.gather(*(client.close() for client in clients))
    return ends


@contextmanager
def swarming(
    address: str,
    tokens: Sequence[str],
    files: Sequence[Path],
    in_flight: int = 1,
    stride: int = 0,
    every: float = 0.0,
) -> Iterator[Counter[str]]:
    """A swarm that asks meanwhile; tells at the end how its calls ended."""
    ends = Counter[str]()
    task = {"tokens": tokens, "files": [str(file) for file in files], "in_flight": in_flight}
    task |= {"stride": stride, "every": every}
    command = [sys.executable, "-m", "bench.callers.swarm", address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps(task), file=process.stdin, flush=True)
        assert process.stdout.readline() == "at work\n"
        yield ends
        print(file=process.stdin, flush=True)
        ends.update(json.loads(process.stdout.readline()))


def main() -> None:
    """Does its task."""
    task = json.loads(sys.stdin.readline())
    print(json.dumps(asyncio.run(swarm(sys.argv[1], **task))), flush=True)


if __name__ == "__main__":
    main()
