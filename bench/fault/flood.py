"""One caller asks for as many long transfers as it may, and more; another one's saliency maps come as quickly as the
device's step allows."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.callers.crowd import Crowd, crowd, p99
from bench.common.proof import Counts, Proof, none
from bench.common.steps import longest
from bench.common.table import Goal, ms
from bench.fault.overload import ONE, light
from lightwell.serving import served

STREAMS = 64
"""What a caller may have open; the flood wants two more."""
MAPS = 100
"""Maps at least, alone and beside the flood."""
QUIET, LOUD = "a-token-of-one-that-is-modest", "a-token-of-one-that-is-not"


def prove(seconds: float) -> Proof:
    """Asks maps for so many seconds at least beside the flood, and for a third of them alone."""
    with tempfile.TemporaryDirectory() as folder:
        repository = light(Path(folder) / "repository")
        tokens = Path(folder) / "tokens.toml"
        tokens.write_text(f'[quiet]\ntoken = "{QUIET}"\n[loud]\ntoken = "{LOUD}"\n')
        options = (*ONE, "--tokens", str(tokens), "--max-streams-per-caller", str(STREAMS))
        with served(repository, *options) as server, crowd(server.address, QUIET) as callers:
            callers.closed(1, 2)
            alone, _ = _maps(callers, seconds / 3)
            with _flood(server.address) as ends, longest(server.process.pid) as step:
                beside, ended = _maps(callers, seconds)
    bound = p99(alone) + step[0]
    answered, refused = len(beside), sum(ends[reason] for reason in KNOWN[1:])
    lost = ended.total() - answered + sum(n for end, n in ends.items() if end not in (*KNOWN, "open"))
    counts = Counts(ended.total() + ends.total(), answered + ends["answered"] + ends["open"], 0, refused, lost)
    goals = [
        Goal("flood: p99 of a map / (p99 alone + longest step)", p99(beside) / bound, 1.5, False),
        Goal("flood: maps asked", answered, MAPS, True, "d"),
        none("flood: calls lost", lost),
    ]
    notes = [
        f"p99 of a map {ms(p99(alone))} alone ({len(alone)}), {ms(p99(beside))} beside; longest step {ms(step[0])}",
        "the flood: " + ", ".join(f"{n:,} {end}" for end, n in sorted(ends.items())),
    ]
    return Proof("flood", counts, goals, notes)


KNOWN = ("answered", "TOO_MANY_STREAMS", "TOO_MANY_JOBS", "QUEUE_FULL")
"""How the flood's calls may end."""


def _maps(callers: Crowd, seconds: float) -> tuple[list[float], Counter[str]]:
    """Seconds of maps that are asked one after the other for so long, and until there are enough; and how many calls
    ended how."""
    maps: list[float] = []
    ends = Counter[str]()
    while len(maps) < MAPS:
        ended = callers.closed(1, seconds)
        maps += ended.answered
        ends.update({end: len(found) for end, found in ended.ends.items()})
        assert ended.answered, f"no map at all: {ended.line()}"
    return maps, ends


@contextmanager
def _flood(address: str) -> Iterator[Counter[str]]:
    """A flood; tells at the end how its calls ended."""
    ends = Counter[str]()
    command = [sys.executable, "-m", "bench.callers.flooder", address, LOUD, str(STREAMS + 2)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield ends
        process.stdin.close()
        ends.update(json.loads(process.stdout.readline()))
