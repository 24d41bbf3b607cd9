"""A caller whose calls end in all ways, in a process of its own: `python -m bench.callers.ender ADDRESS CALLS SEED`.

Asks all methods, by calls with one answer and by both kinds of streams, IN_FLIGHT at a time. Some calls wait for their
answer; others have a deadline that may be too short, are cancelled, or hung up on: their channel is closed. Tells at
the end how many ended how, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from lightwell import GradCam, Occlusion, Pgd, Saliency, Style, StyleTransfer
from lightwell.images import to_message
from lightwell.requests import explain_request, synthesize_request
from lightwell.v1 import explain_pb2, explainer_pb2_grpc

IN_FLIGHT = 4
SIDE = 96
ENDS = {"waits": 0.4, "deadline": 0.2, "cancels": 0.2, "hangs up": 0.2}
"""What a caller means to do, and how often."""
EXPLAINED = (Saliency(), GradCam(), Occlusion(stride=12))


def questions() -> dict[str, tuple[str, Any]]:
    """What is asked: by name the call, and its request."""
    picture, style = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8)
    asked: dict[str, tuple[str, Any]] = {}
    for method in EXPLAINED:
        request = explain_request(picture, method, fit="exact")
        name = type(method).__name__
        asked[name] = "Explain", request
        asked[f"{name}, streamed"] = "ExplainStream", explain_pb2.ExplainStreamRequest(request=request)
    painted = StyleTransfer(styles=[Style(image=to_message(style))], size=48, steps=5)
    for made in (Pgd(steps=5), painted):
        asked[type(made).__name__] = "Synthesize", synthesize_request(made, image=picture)
    return asked


class Ender:
    """`ends` counts how its calls ended."""

    def __init__(self, address: str, seed: int) -> None:
        self.ends: Counter[str] = Counter()
        self._address, self._rng, self._questions = address, random.Random(seed), questions()
        self._usual = dict.fromkeys(self._questions, 0.1)

    async def ask(self, numbers: Iterator[int]) -> None:
        """One call after the other until the numbers end."""
        channel = grpc.aio.insecure_channel(self._address)
        for _ in numbers:
            (meant,) = self._rng.choices(list(ENDS), list(ENDS.values()))
            await self._call(channel, meant)
            if meant == "hangs up":
                await channel.close()
                channel = grpc.aio.insecure_channel(self._address)
        await channel.close()

    async def _call(self, channel: grpc.aio.Channel, meant: str) -> None:
        """One call. A channel that is hung up on is closed with the call at work."""
        name = self._rng.choice(list(self._questions))
        until, began = self._rng.uniform(0, 1.5 * self._usual[name]), time.perf_counter()
        task = asyncio.ensure_future(self._answer(channel, name, until if meant == "deadline" else None))
        if meant in ("cancels", "hangs up"):
            await asyncio.wait([task], timeout=until)
            if meant == "hangs up":
                await channel.close()
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.result() == "OK":
            self._usual[name] = 0.9 * self._usual[name] + 0.1 * (time.perf_counter() - began)
        self.ends[f"{meant}: {'CANCELLED' if task.cancelled() else task.result()}"] += 1

    async def _answer(self, channel: grpc.aio.Channel, name: str, timeout: float | None) -> str:
        """The status of a call that was waited for."""
        rpc, request = self._questions[name]
        call = getattr(explainer_pb2_grpc.ExplainerServiceStub(channel), rpc)(request, timeout=timeout)
        try:
            if rpc == "Explain":
                await call
            else:
                async for _ in call:
                    pass
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


async def end(address: str, calls: int, seed: int) -> Counter[str]:
    """Asks so many times; counts how the calls ended."""
    ender, numbers = Ender(address, seed), iter(range(calls))
    await asyncio.gather(*(ender.ask(numbers) for _ in range(IN_FLIGHT)))
    return ender.ends


if __name__ == "__main__":
    print(json.dumps(asyncio.run(end(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
