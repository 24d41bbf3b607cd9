"""A crowd of callers in a process of its own: `python -m bench.callers.arrivals ADDRESS [TOKEN [MODEL]]`.

Each line of its input is a task as JSON; each is answered by a line. `{"in_flight": n, "seconds": s}` asks so many
saliency maps at a time for so long. `{"rate": r, "seconds": s, "within": d, "told": t}` asks r a second by a clock,
whatever is answered; answers count within d seconds, and the server is told that deadline if t is true. Answered is
how each call ended: "answered", "late", or the status and reason of its refusal, with its seconds; how late the calls
themselves were sent at most; and how long it all took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc

from bench.callers.asker import photographs
from lightwell import Saliency
from lightwell.requests import explain_request
from lightwell.transport.errors import from_rpc

EXPLAIN = "/lightwell.v1.ExplainerService/Explain"


@dataclass
class Crowd:
    """Asks photographs in turn, as bytes: a caller that does little itself disturbs little."""

    channel: grpc.aio.Channel
    token: str = ""
    model: str = ""
    ends: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    behind: float = 0.0

    def __post_init__(self) -> None:
        asked = [explain_request(photo, Saliency(), model=self.model) for photo in photographs()]
        self._requests = [request.SerializeToString() for request in asked]
        self._explain = self.channel.unary_unary(EXPLAIN)
        self._headers = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        self._asked = 0

    async def ask(self, within: float | None = None, told: bool = True) -> None:
        """One call; notes how it ended and its seconds."""
        self._asked += 1
        request = self._requests[self._asked % len(self._requests)]
        began = time.perf_counter()
        try:
            await self._explain(request, timeout=within if told else None, metadata=self._headers)
            end = "answered"
        except asyncio.CancelledError:
            end = "late"
        except grpc.aio.AioRpcError as error:
            known = from_rpc(error, "")
            late = known.code is grpc.StatusCode.DEADLINE_EXCEEDED and known.reason != "DEADLINE_TOO_SHORT"
            end = "late" if late else f"{known.code.name} {known.reason}"
        seconds = time.perf_counter() - began
        self.ends["late" if end == "answered" and within and seconds > within else end].append(seconds)

    async def closed(self, in_flight: int, seconds: float) -> None:
        """So many calls at a time, for so long."""
        until = time.perf_counter() + seconds

        async def one_after_the_other() -> None:
            while time.perf_counter() < until:
                await self.ask()

        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))

    async def open(self, rate: float, seconds: float, within: float, told: bool) -> None:
        """So many calls a second, for so long; what is not answered in time by then is given up."""
        began, calls = time.perf_counter(), []
        for number in range(round(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.behind = max(self.behind, time.perf_counter() - due)
            calls.append(asyncio.create_task(self.ask(within, told)))
        _, open_ = await asyncio.wait(calls, timeout=1.1 * within)
        for call in open_:
            call.cancel()
        await asyncio.gather(*calls)


async def _done(address: str, token: str, model: str, task: dict[str, Any]) -> dict[str, Any]:
    """Does a task; tells how its calls ended."""
    began = time.perf_counter()
    async with grpc.aio.insecure_channel(address) as channel:
        crowd = Crowd(channel, token, model)
        await (crowd.open(**task) if "rate" in task else crowd.closed(**task))
        return {"ends": crowd.ends, "behind": crowd.behind, "seconds": time.perf_counter() - began}


def main() -> None:
    """Does its tasks until its input ends."""
    address, token, model = (*sys.argv[1:], "", "")[:3]
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_done(address, token, model, json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
