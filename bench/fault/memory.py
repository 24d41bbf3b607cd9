"""Many callers send the largest pictures of every form at once, to a server that may hold 2 GiB: whatever becomes of
them, another caller's maps come, and the gateway lives."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from bench.callers.crowd import Ended, crowd, p50
from bench.callers.large import FORMS, largest
from bench.callers.swarm import swarming
from bench.common.confined import Group, environment
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.figures import most
from bench.common.proof import Counts, Proof, none
from bench.common.table import Goal, ms
from lightwell.serving import Server, bundled, served

LIMIT = 2 * 2**30
"""Bytes that gateway and workers may hold together."""
CALLERS = 256
QUIET = "a-token-of-one-that-is-modest"
TOLD = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT PICTURE_TOO_LARGE")
"""How a call may be refused: for want of room now, or since a message or its picture would never fit."""


def prove(seconds: float) -> Proof:
    """Sends for so many seconds, and asks maps beside it."""
    try:
        group = Group(LIMIT)
    except OSError as error:
        why = f"NOT MEASURED here: no control group could be made: {error}"
        return Proof("memory", Counts(0, 0, 0, 0, 0), [], [why])
    try:
        return _prove(seconds, group)
    finally:
        group.remove()


def _prove(seconds: float, group: Group) -> Proof:
    with tempfile.TemporaryDirectory() as folder:
        files = largest(Path(folder))
        loud = [f"a-token-of-the-large-{number:03}" for number in range(CALLERS)]
        tokens = Path(folder) / "tokens.toml"
        tokens.write_text(
            "".join(f'[c{i}]\ntoken = "{token}"\n' for i, token in enumerate(loud)) + f'[quiet]\ntoken = "{QUIET}"\n'
        )
        options = ("--workers", "1", "--threads", "1", "--tokens", str(tokens), *SHORT_GRACE)
        with (
            environment(BENCH_GROUP=str(group.path)),
            served(bundled(), *options, module="bench.common.confined") as server,
            crowd(server.address, QUIET) as quiet,
        ):
            quiet.closed(1, 2)
            with swarming(server.address, loud, files) as ends:
                maps = quiet.closed(1, seconds)
            return _proof(server, group, maps, ends)


def _proof(server: Server, group: Group, maps: Ended, ends: Counter[str]) -> Proof:
    refused = sum(count for end, count in ends.items() if end.startswith(TOLD))
    failed = maps.sent - len(maps.answered)
    lost = failed + ends.total() - ends["answered"] - ends["open"] - refused
    alive = lives("memory", server)
    held = most(server.process.pid) if alive.met else float("inf")
    goals = [
        none("memory: calls of another caller that failed", failed),
        Goal("memory: the most that the gateway held", held, LIMIT / 2**20, False, ".0f", " MiB"),
        alive,
        none("memory: processes killed for want of memory", group.killed),
        none("memory: calls lost", lost),
        ended("memory", server),
    ]
    median = ms(p50(maps.answered)) if maps.answered else "none"
    notes = [
        f"{CALLERS} callers with {', '.join(FORMS)}: " + ", ".join(f"{n:,} {end}" for end, n in sorted(ends.items())),
        f"another caller's maps: {maps.line()}, median {median}; the group held {group.peak / 2**20:,.0f} MiB at most",
    ]
    counts = Counts(maps.sent + ends.total(), len(maps.answered) + ends["answered"] + ends["open"], 0, refused, lost)
    return Proof("memory", counts, goals, notes)
