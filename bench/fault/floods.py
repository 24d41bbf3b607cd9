"""One caller floods the server with all that it may ask; another one's maps come as if there were two steps more."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.callers.asker import photographs
from bench.callers.crowd import Ended, crowd
from bench.callers.large import slow
from bench.callers.swarm import swarming
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.proof import Counts, Proof, none
from bench.common.steps import longest
from bench.common.table import Goal, ms
from bench.fault.overload import ONE, light
from lightwell.serving import served

QUIET, LOUD = "a-token-of-one-that-is-modest", "a-token-of-one-that-is-not"
FLOODS: Mapping[str, tuple[str, int, int]] = {
    "256 dense occlusions": ("photograph", 256, 2),
    "200 short requests": ("photograph", 200, 0),
    "32 slow pictures": ("slow", 32, 0),
}
"""The file of each, how many calls are in flight, and the stride of the occlusions; 0 asks maps."""
TIMES = 2.0
"""How often alone, and one step more, a map may take beside a flood."""


def prove(seconds: float) -> Proof:
    """Asks maps for a third of so many seconds beside each flood, and for as long alone."""
    with tempfile.TemporaryDirectory() as folder:
        repository = light(Path(folder) / "repository")
        tokens = Path(folder) / "tokens.toml"
        tokens.write_text(f'[quiet]\ntoken = "{QUIET}"\n[loud]\ntoken = "{LOUD}"\n')
        (Path(folder) / "photograph").write_bytes(photographs()[0])
        slow(Path(folder))
        with (
            served(repository, *ONE, "--tokens", str(tokens), *SHORT_GRACE) as server,
            crowd(server.address, QUIET) as quiet,
        ):
            quiet.closed(1, 2)
            alone = quiet.closed(1, seconds / 3)
            every, loud, goals, notes = [alone], Counter[str](), list[Goal](), list[str]()
            for name, (file, in_flight, stride) in FLOODS.items():
                flood: dict[str, Any] = {"in_flight": in_flight, "stride": stride}
                with (
                    swarming(server.address, [LOUD], [Path(folder) / file], **flood) as ends,
                    longest(server.process.pid) as step,
                ):
                    beside = quiet.closed(1, seconds / 3)
                every.append(beside)
                loud.update(ends)
                goals.append(_goal(name, alone, beside, step[0]))
                notes += [
                    f"{name}: p95 of a map {ms(_p95(alone))} alone, {ms(_p95(beside))} beside",
                    f"  the longest step {ms(step[0])}",
                    "  the flood: " + ", ".join(f"{n:,} {end}" for end, n in sorted(ends.items())),
                ]
            alive, last = lives("floods", server), ended("floods", server)
    sent, answered = sum(part.sent for part in every), sum(len(part.answered) for part in every)
    refused = sum(count for end, count in loud.items() if end.startswith("RESOURCE_EXHAUSTED"))
    lost = sent - answered + loud.total() - loud["answered"] - loud["open"] - refused
    counts = Counts(sent + loud.total(), answered + loud["answered"] + loud["open"], 0, refused, lost)
    full = sum(len(part.ends.get("RESOURCE_EXHAUSTED QUEUE_FULL", ())) for part in every)
    goals += [none("floods: others that were told QUEUE_FULL", full), none("floods: calls lost", lost), alive, last]
    return Proof("floods", counts, goals, notes)


def _goal(name: str, alone: Ended, beside: Ended, step: float) -> Goal:
    ratio = _p95(beside) / (_p95(alone) + step)
    return Goal(f"floods: {name}: p95 of a map / (p95 alone + longest step)", ratio, TIMES, False)


def _p95(ended: Ended) -> float:
    """For ever if nothing was answered."""
    return float(np.percentile(ended.answered, 95)) if ended.answered else float("inf")
