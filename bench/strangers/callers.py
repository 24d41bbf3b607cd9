"""Callers who ask more than others, and who ask what is no request."""

from __future__ import annotations

import time
from collections import Counter

import grpc

from bench.callers.arrivals import EXPLAIN
from bench.callers.asker import photographs
from bench.callers.swarm import swarming
from bench.common.proof import none
from bench.common.steps import longest
from bench.common.table import Goal, ms
from bench.strangers.shared import LOUD, MIB, Part, p95, target
from lightwell.transport.errors import from_rpc

SHORT, DENSE, STRIDE = 200, 16, 2
"""Short requests and dense occlusions at a time, and the stride of those."""
TIMES = 2.0
"""How often alone, and one step more, a map may take beside a flood."""
SYNTHESIZE = "/lightwell.v1.ExplainerService/Synthesize"
PARTS = 1_000_000
PAUSE = 0.5
"""Seconds between two rounds of such messages."""
REFUSED = 1.0
"""Seconds in which a message of too many parts is refused."""
RISEN = 64.0
"""MiB that such messages may take of the gateway: a few times their own bytes."""


def caller(seconds: float) -> Part:
    """One caller asks all that it may, of short requests and of long ones."""
    with target("caller") as it:
        photograph = it.folder / "photograph"
        photograph.write_bytes(photographs()[0])
        short = swarming(it.server.address, [LOUD], [photograph], SHORT)
        dense = swarming(it.server.address, [LOUD], [photograph], DENSE, STRIDE)
        with it.asked(seconds), short as ends, dense as more, longest(it.server.process.pid) as step:
            time.sleep(seconds)
        times = p95(it.beside) / (p95(it.alone) + step[0])
        refused = [n for end, n in it.beside.ends.items() if end.startswith("RESOURCE_EXHAUSTED")]
        told = Counter(ends) + Counter(more)
        return it.found(
            Goal("caller: p95 of another caller's map / (p95 alone + longest step)", times, TIMES, False),
            none("caller: another caller's maps that were told RESOURCE_EXHAUSTED", sum(map(len, refused))),
            notes=[
                f"the longest step {ms(step[0])}; the flood: "
                + ", ".join(f"{count:,} {end}" for end, count in sorted(told.items()))
            ],
        )


def parts(seconds: float) -> Part:
    """Messages of far too many parts, one after the other."""
    made = {
        "empty list entries": (SYNTHESIZE, _within(211, data=_within(1) * PARTS)),
        "map entries": (EXPLAIN, b"".join(_within(5, 1, data=b"%x" % number) for number in range(PARTS))),
        "numbers": (EXPLAIN, _within(3, 2, 1, data=b"\1" * PARTS)),
    }
    took: dict[str, float] = dict.fromkeys(made, 0.0)
    wrong = asked = 0
    with target("parts") as it:
        with it.asked(seconds), grpc.insecure_channel(it.server.address) as channel:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                for name, (rpc, data) in made.items():
                    spent, right = _refused(channel, rpc, data)
                    took[name], wrong, asked = max(took[name], spent), wrong + (not right), asked + 1
                time.sleep(PAUSE)
        goals = [
            Goal(f"parts: until a million {name} were refused", spent, REFUSED, False, ".2f", " s")
            for name, spent in took.items()
        ]
        sent = f"{asked} messages of {', '.join(f'{len(data) / MIB:.1f}' for _, data in made.values())} MiB in turn"
        return it.found(*goals, none("parts: not told TOO_MANY_PARTS", wrong), it.risen(RISEN), notes=[sent])


def _refused(channel: grpc.Channel, rpc: str, data: bytes) -> tuple[float, bool]:
    """Seconds until the answer, and whether it was the right one."""
    began = time.perf_counter()
    try:
        list(channel.unary_stream(rpc)(data, timeout=60, metadata=(("authorization", f"Bearer {LOUD}"),)))
    except grpc.RpcError as error:
        told = from_rpc(error, "")
        right = (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_PARTS")
        return time.perf_counter() - began, right
    return time.perf_counter() - began, False


def _within(*fields: int, data: bytes = b"") -> bytes:
    """Data as the value of a message's field, in another one's, and so on."""
    for field in reversed(fields):
        data = _varint(field << 3 | 2) + _varint(len(data)) + data
    return data


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
