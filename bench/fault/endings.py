"""Thousands of calls with random ends, from several processes: nothing of them stays, and nothing is done for them once
they are gone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

from bench.common.endurance import Usage
from bench.common.processes import Family
from bench.common.proof import Counts, Proof, none
from bench.common.scrape import Scrape, metered
from bench.common.table import Goal
from lightwell.serving import bundled

CALLS = 20_000
"""In SECONDS, the usual time of a proof."""
SECONDS = 60.0
WARM = 900
CALLERS = 3
SETTLING = 3.0
"""Seconds in which the steps at work when the last caller left may end, and figures settle."""
WATCHED = 3.0
"""Seconds for which the device is watched then."""


def prove(seconds: float) -> Proof:
    """Asks as many calls of a third as belong to so many seconds."""
    calls = max(CALLERS, round(CALLS * seconds / SECONDS))
    with metered(bundled(), "--workers", "2", "--threads", "1") as (server, scrape):
        family = Family(server.process.pid)
        called(server.address, WARM)
        before = _settled(family)
        ends = called(server.address, calls)
        after, early = _settled(family), scrape()
        time.sleep(WATCHED)
        late = scrape()
    by_status = Counter[str]()
    for end, count in ends.items():
        by_status[end.partition(": ")[2]] += count
    meant = sum(count for end, count in ends.items() if _meant(end))
    refused = by_status["RESOURCE_EXHAUSTED"] + meant
    counts = Counts(calls, by_status["OK"], 0, refused, calls - by_status["OK"] - refused)
    notes = [
        ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items())),
        f"memory {before.megabytes:.0f} to {after.megabytes:.0f} MB, files {before.files} to {after.files},"
        f" threads {before.threads} to {after.threads}; dropped {late.total('lightwell_dropped_jobs_total'):,.0f} jobs",
    ]
    return Proof("endings", counts, [*_goals(before, after, early, late), none("endings: lost", counts.lost)], notes)


def _goals(before: Usage, after: Usage, early: Scrape, late: Scrape) -> list[Goal]:
    return [
        none("endings: jobs left", round(early.total("lightwell_jobs"))),
        none("endings: steps for the gone", round(late.grown(early, "lightwell_steps_total"))),
        Goal("endings: memory after / before", after.megabytes / before.megabytes, 1.1, False),
        Goal("endings: files above those before", after.files - before.files, 0, False, "d"),
        Goal("endings: threads above those before", after.threads - before.threads, 0, False, "d"),
    ]


def _meant(end: str) -> bool:
    """Whether a call ended early as its caller meant it to."""
    meant, _, status = end.partition(": ")
    early = {"deadline": "DEADLINE_EXCEEDED", "cancels": "CANCELLED", "hangs up": "CANCELLED"}
    return early.get(meant) == status


def _settled(family: Family) -> Usage:
    """What a server holds a while after its last call."""
    time.sleep(SETTLING)
    return family.usage()


def called(address: str, calls: int) -> Counter[str]:
    """Calls from several processes; how many ended how."""
    shares = [calls // CALLERS + (i < calls % CALLERS) for i in range(CALLERS)]
    command = [sys.executable, "-m", "bench.callers.ender", address]
    running = [
        subprocess.Popen([*command, str(share), str(seed)], stdout=subprocess.PIPE, text=True)
        for seed, share in enumerate(shares)
    ]
    ends = Counter[str]()
    for process in running:
        told, _ = process.communicate()
        ends.update(json.loads(told))
    return ends
