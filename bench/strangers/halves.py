"""Requests that do not come as a whole, and answers that nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic, sleep

from bench.callers.frames import ROOM, Stranger, message
from bench.common.table import Goal
from bench.strangers.shared import LOUD, MIB, Part, Target, target
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import types_pb2 as types
from lightwell_server.requests.budget import PATIENCE

EXPLAIN = "/lightwell.v1.ExplainerService/Explain"
GATEWAY = 512 * MIB
"""What requests, pictures and answers may take together: a message as large as any fits in the half of a caller."""
LIMIT = 5.0
"""Seconds in which a request must have come, and an answer be read."""
LATE = 2.0
"""Seconds that the end of a stream may take beyond what bounds it."""
STREAMS, SIZE, SENT = 20, 30 * MIB, 0.9
ANSWERS, SIDE, LAYER = 40, 256, "features.0"
SMALL = 8 * MIB
"""Bytes that a message may have where many answers shall be under way at a time: as many are reserved before a request
is read."""
CONNECTIONS = 4


def half_sent(seconds: float) -> Part:
    """Streams send most of a large request, and stop; takes until the last of them must have ended at least."""
    bound = LIMIT + PATIENCE + LATE
    seconds = max(seconds, bound)
    with target("half_sent", *_gateway("--max-receive-seconds")) as it, ExitStack() as stack:
        strangers = _strangers(stack, it)
        with it.asked(seconds):
            began = monotonic()
            asked = [(one, one.ask(EXPLAIN, LOUD)) for _ in range(STREAMS // CONNECTIONS) for one in strangers]
            sent = _pushed(asked, message(bytes(int(SENT * SIZE)), SIZE), began + seconds)
        lasted = [one.ended.get(stream, float("inf")) - began for one, stream in asked]
        share = GATEWAY / 4 / MIB + STREAMS * ROOM / MIB
        return it.found(
            it.risen(share),
            Goal("half_sent: until the last stream was ended", max(lasted), bound, False, ".1f", " s"),
            notes=[
                f"{STREAMS} requests of {SIZE / MIB:,.0f} MiB, of which were sent: "
                + ", ".join(f"{size / MIB:.1f}" for size in sent)
            ],
        )


def unread(seconds: float) -> Part:
    """Answers of several MiB each, of which no byte is let in; takes until the last must have ended."""
    seconds = max(seconds, PATIENCE + 2 * LIMIT + LATE)
    with (
        target("unread", *_gateway("--max-send-seconds"), "--max-message-bytes", str(SMALL)) as it,
        ExitStack() as stack,
    ):
        strangers = _strangers(stack, it, window=0)
        pixels = types.Tensor(shape=[3, SIDE, SIDE], dtype=types.DATA_TYPE_UINT8, data=bytes(3 * SIDE * SIDE))
        image = types.Image(tensor=pixels, fit=types.FIT_EXACT)
        request = explain.ExplainRequest(activations=explain.Activations(layer=LAYER), image=image)
        data = message(request.SerializeToString())
        with it.asked(seconds):
            began = monotonic()
            asked = [(one, one.ask(EXPLAIN, LOUD)) for _ in range(ANSWERS // CONNECTIONS) for one in strangers]
            sent = _pushed(asked, data, began + seconds)
        kept = [one.ended.get(stream, float("inf")) - one.begun[stream] for one, stream in asked if stream in one.begun]
        return it.found(
            it.risen(GATEWAY / 4 / MIB),
            Goal("unread: answers that were begun", len(kept), 1, True, "d"),
            Goal("unread: longest that an answer was kept", max(kept, default=0.0), LIMIT + LATE, False, ".1f", " s"),
            notes=[f"{sum(size == len(data) for size in sent)} requests were sent as a whole"],
        )


def _gateway(limit: str) -> tuple[str, ...]:
    return ("--max-gateway-bytes", str(GATEWAY), limit, str(LIMIT))


def _strangers(stack: ExitStack, it: Target, window: int = ROOM) -> list[Stranger]:
    return [stack.enter_context(Stranger(it.server.address, window)) for _ in range(CONNECTIONS)]


def _pushed(asked: Sequence[tuple[Stranger, int]], data: bytes, until: float) -> list[int]:
    """Sends the same on all streams, as soon as the server takes more of it; how much went out on each."""
    sent, view = [0] * len(asked), memoryview(data)
    while monotonic() < until and not all(stream in one.ended for one, stream in asked):
        for number, (one, stream) in enumerate(asked):
            sent[number] += one.send(stream, view[sent[number] :], patience=0.0)
        sleep(0.01)
    return sent
