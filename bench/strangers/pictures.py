"""Pictures that take what a picture may: of memory, and of time."""

from __future__ import annotations

import math
import time
from pathlib import Path

from bench.callers.large import FORMS, largest, slow
from bench.callers.swarm import swarming
from bench.common.table import Goal
from bench.strangers.shared import LOUD, MIB, Part, p95, target
from lightwell_server.codec.pictures import headed
from lightwell_server.config import Settings
from lightwell_server.gateway.codec_pool import CodecPool

CALLERS = 16
GATEWAY = 256 * MIB
"""What requests, pictures and answers may take together."""
PART = 0.95
"""Of the largest picture that fits."""
OVER = 1.25
"""How much of its budget the gateway may take: what Python and its libraries have beside it."""
SMALL = 256
"""Side of the pictures that tell what a pixel takes."""
EVERY, AT_ONCE = 2.0, 4
"""Seconds between two rounds of slow pictures, and how many there are in one."""
TIMES = 2.0
"""How often alone a map may take beside slow pictures."""


def memory(seconds: float) -> Part:
    """Many callers send the largest pictures that the server takes, of every form."""
    loud = [f"a-token-of-the-large-{number:02}" for number in range(CALLERS)]
    with target("memory", "--max-gateway-bytes", str(GATEWAY), callers=loud) as it:
        files = largest(it.folder, _sides(it.folder))
        with it.asked(seconds), swarming(it.server.address, loud, files) as ends:
            time.sleep(seconds)
        sent = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        return it.found(it.risen(OVER * GATEWAY / MIB), notes=[f"{CALLERS} callers with {', '.join(FORMS)}: {sent}"])


def codecs(seconds: float) -> Part:
    """One caller sends pictures whose decoding takes long, some every other second."""
    with target("codecs") as it:
        files = [slow(it.folder, 3_000), *largest(it.folder, {"png": 6_000})]
        with it.asked(seconds), swarming(it.server.address, [LOUD], files, AT_ONCE, every=EVERY) as ends:
            time.sleep(seconds)
        sent = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        times = p95(it.beside) / p95(it.alone)
        return it.found(
            Goal("codecs: p95 of another caller's map / p95 alone", times, TIMES, False), notes=[f"slow ones: {sent}"]
        )


def _sides(folder: Path) -> dict[str, int]:
    """The side of the largest square of each form that the gateway has room for, by what a small one takes; a message
    may be no larger than it may be."""
    found = {}
    for path in largest(folder, dict.fromkeys(FORMS, SMALL)):
        data = path.read_bytes()
        raw = len(data) if path.name == "bmp" else 0
        each = max(
            headed(data, "image").bytes / CodecPool(GATEWAY // 2).largest,
            raw / Settings.model_fields["max_message_bytes"].default,
        )
        found[path.name] = int(SMALL * math.sqrt(PART / each))
    return found
