"""Ten times what the server can do: what it lets in it answers in time, and the rest hears so at once."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.callers.crowd import Crowd, Ended, crowd, p50, p99
from bench.common.nets import deployed
from bench.common.processes import Family, processor_seconds
from bench.common.proof import Counts, Proof
from bench.common.table import Goal, ms
from lightwell.serving import served

SIDE = 112
"""Of the pictures that the proofs' model takes, if they need no larger ones."""
LARGE = 160
"""Of those of this proof: what it can do must leave ten times as many callers room on the same machine."""
TIMES = 10
WITHIN = 2.0
"""Seconds in which a caller wants its answer."""
IN_FLIGHT = (2, 4, 8, 16)
LOOK = 4.0
"""Seconds of each measurement before and after."""
EARLY = 10.0
"""Seconds after which the memory is looked at for the first time."""
ONE = ("--workers", "1", "--threads", "1")
WIDE = (
    "--workers",
    "0",
    "--threads",
    "1",
    "--max-jobs",
    "100000",
    "--max-queue-seconds",
    "1e6",
    "--grace-seconds",
    "1",
)
"""A server that refuses nothing: requests of one kind are answered in the order in which they came."""
UNBOUNDED = ("--max-memory-bytes", str(2**40), "--grace-seconds", "1")


@dataclass(frozen=True)
class Run:
    """One overload: answers a second at best beforehand, a slow caller's median seconds before and after, what became
    of all calls, what the server held early and at the end in megabytes, and the processor seconds that gateway,
    workers and callers have used meanwhile."""

    peak: float
    before: float
    load: Ended
    seconds: float
    early: float
    late: float
    used: tuple[float, float, float]
    after: float

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return len(self.load.answered) / self.seconds


def prove(seconds: float) -> Proof:
    """Sends ten times the capacity for so many seconds; for a third of them to a server that refuses nothing."""
    with tempfile.TemporaryDirectory() as folder:
        repository = light(Path(folder), LARGE)
        with served(repository, *ONE) as server, crowd(server.address) as callers:
            run = overload(callers, Family(server.process.pid), seconds)
        with served(repository, *WIDE, *UNBOUNDED) as server, crowd(server.address) as callers:
            peak = _peak(callers)
            first = callers.open(TIMES * peak, seconds / 3, WITHIN, told=False)
    load = run.load
    told = len(load.refused) + len(load.late)
    counts = Counts(load.sent, len(load.answered), 0, told, load.sent - len(load.answered) - told)
    wide = len(first.answered) / (seconds / 3)
    notes = [
        f"{load.line()}; sent {ms(load.behind)} behind the clock at most",
        f"peak {run.peak:.1f} answers/s, in time under load {run.goodput:.1f}/s; memory {run.early:.0f} MB early,"
        f" {run.late:.0f} MB at the end; one caller alone {ms(run.before)} before, {ms(run.after)} after",
        "processor seconds under load: gateway {:.1f}, workers {:.1f}, callers {:.1f}".format(*run.used),
        f"first come, first served, nothing refused: peak {peak:.1f} answers/s, in time under load {wide:.1f}/s"
        f" in {seconds / 3:.0f} s ({wide / peak:.2f} of its peak)",
    ]
    return Proof("overload", counts, _goals(run), notes)


def _goals(run: Run) -> list[Goal]:
    return [
        Goal("overload: answers in time / peak", run.goodput / run.peak, 0.9, True),
        Goal("overload: p99 to a refusal", 1000 * p99(run.load.refused), 50, False, ".1f", " ms"),
        Goal(f"overload: memory at the end / after {EARLY:.0f} s", run.late / run.early, 1.1, False),
        Goal("overload: one caller after / before", run.after / run.before, 1.5, False),
    ]


def overload(callers: Crowd, family: Family, seconds: float) -> Run:
    """Looks, sends for so long, and looks again two seconds after the last call at most."""
    peak = _peak(callers)
    before = p50(callers.closed(1, LOOK).answered)
    began = _used(callers, family)
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(callers.open, TIMES * peak, seconds, WITHIN)
        time.sleep(min(EARLY, seconds / 3))
        early = family.usage().megabytes
        time.sleep(seconds - min(EARLY, seconds / 3))
        late = family.usage().megabytes
        load = sending.result()
    gateway, workers, asking = (now - then for now, then in zip(_used(callers, family), began, strict=True))
    after = p50(callers.closed(1, LOOK).answered)
    return Run(peak, before, load, seconds, early, late, (gateway, workers, asking), after)


def _used(callers: Crowd, family: Family) -> tuple[float, float, float]:
    """Processor seconds of gateway, workers and callers so far."""
    return *family.seconds(), processor_seconds(callers.pid)


def _peak(callers: Crowd) -> float:
    """Answers a second, of as many at a time as is best."""
    callers.closed(4, LOOK)
    return max(len(ended.answered) / ended.seconds for ended in (callers.closed(n, LOOK) for n in IN_FLIGHT))


def light(repository: Path, side: int = SIDE) -> Path:
    """A repository with ResNet-18 on pictures of that side, which is quick enough for many requests."""
    deployed("resnet18", repository)
    card = f"[input]\nsize = [{side}, {side}]\nresize = {side * 8 // 7}\n"
    (repository / "resnet18" / "1" / "card.toml").write_text(card)
    return repository
