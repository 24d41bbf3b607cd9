"""What the service costs, keeps apart, gives back and forgets: `python -m bench.serving [--part NAME]`.

ResNet-18 at 224 with random weights, its scripted file, on the CPU; clients are processes of their own. The parts:

- throughput: maps a second with 32 requests in flight over those of the same engine driven in a process of its own,
  which takes rows of 8 bits and decodes nothing. Sent are such rows or JPEG files of 500 x 375; answered is the map, or
  the map and a PNG of it over the original picture.
- latency: one client, one JPEG at a time, beside the gradient of the eager network for the same pixels; medians of
  calls in turn. The server's own time is what a request takes in the server without device seconds and without
  decoding, fitting and encoding, by the server's metrics.
- beside: the 95th percentile of a saliency map's time beside four style transfers and two occlusions of stride 4.
  Served, over the same alone plus the longest device step of the others, which is measured in process under the same
  load. In process, where maps are asked at a steady pace whether or not those before have come, beside the same first
  come, first served: an engine that runs each request to its end before it begins the next one.
- memory: what the server process holds after a tenth of the calls and after all, a fifth of them cancelled at random
  moments; saliency, Grad-CAM, occlusion and PGD on the bundled model.
- ending: device steps that are finished after a caller has cancelled, or its deadline has passed; the step at work at
  that moment is finished, and no other begun.
- queue: microseconds to take a job from the line, charge it and add it again, with more and more jobs in line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from bench.callers.asker import OVERLAY
from bench.callers.ending import endings
from bench.common.endurance import endurance
from bench.common.nets import deployed
from bench.common.table import Goal, Row, medians, ms, print_goals, report, table
from bench.device.beside import OCCLUSIONS, TRANSFERS, FirstComeWorker, latencies_served, p95, paced
from bench.device.long_queue import LongQueue
from bench.device.serving import latency, throughputs
from lightwell_server.engine.engine import Engine
from lightwell_server.models.store import Model

IN_FLIGHT = 32
SHARES = {"tensor": 0.87, "jpeg": 0.80}
"""What serving shall leave of the engine's throughput, by what is sent."""
JOBS = (10, 100, 1_000, 10_000)


@dataclass(frozen=True)
class Bench:
    """What is measured: a network, its model and the repository that it lies in; how often the server is called for
    its memory."""

    net: nn.Module
    model: Model
    repository: Path
    calls: int


def throughput(bench: Bench, count: int = 96, rounds: int = 5) -> Iterator[Row]:
    """The lines and goals of many requests in flight."""
    kinds = [*SHARES, *(kind + OVERLAY for kind in SHARES)]
    found = throughputs(bench.repository, bench.model, IN_FLIGHT, kinds, count, rounds)
    driven = f"in process {found['driven']:.1f} maps/s"
    for kind in kinds:
        name, share = f"{kind}, {IN_FLIGHT} in flight", found[kind] / found["driven"]
        goal = Goal(f"{name}: served / in process", share, SHARES[kind], True) if kind in SHARES else None
        yield (name, f"{found[kind]:.1f} maps/s", driven, f"{share:.2f}", ""), goal


def one_at_a_time(bench: Bench, rounds: int = 40) -> Iterator[Row]:
    """The lines and goals of a single client."""
    found = latency(bench.repository, bench.net, bench.model, rounds)
    name, more = "jpeg, one at a time", found.served - found.bare
    line = name, ms(found.served), f"bare gradient {ms(found.bare)}", f"{found.served / found.bare:.2f}", ""
    yield line, Goal(f"{name}: served - bare gradient", 1000 * more, 12, False, ".1f", " ms")
    name, apart = "the server's own time", f"device {ms(found.device)}, codecs {ms(found.codec)}"
    line = name, ms(found.own), f"in the server {ms(found.request)}", f"{found.own / found.request:.2f}", apart
    yield line, Goal(name, 1000 * found.own, 2, False, ".1f", " ms")


def beside(bench: Bench, maps: int = 40, pace: float = 0.5, steps: int = 50) -> Iterator[Row]:
    """The lines and goals of maps beside long requests."""
    served = latencies_served(bench.repository, maps)
    ours, theirs = (paced(kind, bench.model, maps, pace, steps) for kind in (Engine, FirstComeWorker))
    served.steps = ours.steps
    name, excess = "p95 beside long requests, served", p95(served.beside) / served.bound
    alone = f"alone {ms(p95(served.alone))}, longest step {ms(max(ours.steps))}"
    line = name, ms(p95(served.beside)), alone, f"{excess:.2f}", f"{TRANSFERS} transfers, {OCCLUSIONS} occlusions"
    yield line, Goal(f"{name}: / (p95 alone + longest step)", excess, 1.5, False)
    name, worse = "p95 beside long requests, in process", p95(theirs.maps) / p95(ours.maps)
    first = f"first come, first served {ms(p95(theirs.maps))}"
    asked = f"a map every {pace:g} s, transfers of {steps} steps; beside ours {ours.left} requests were left at the end"
    line = name, ms(p95(ours.maps)), first, f"{worse:.0f}", asked
    yield line, Goal(f"{name}: first come, first served / ours", worse, 20, True, ".0f")


def memory(bench: Bench) -> Iterator[Row]:
    """The lines and goals of what the server process holds."""
    found, calls = endurance(bench.calls), f"after {bench.calls:,} calls"
    early, late, before = found.early, found.late, f"after {bench.calls // 10:,}"
    ratio, ends = late.megabytes / early.megabytes, ", ".join(f"{n:,} {end}" for end, n in sorted(found.ends.items()))
    name = f"resident memory {calls}"
    line = name, f"{late.megabytes:.1f} MB", f"{before} {early.megabytes:.1f} MB", f"{ratio:.3f}", ends
    yield line, Goal(f"{name}, over that {before}", ratio, 1.05, False, ".3f")
    for kind, now, then in (("open files", late.files, early.files), ("threads", late.threads, early.threads)):
        line = f"{kind} {calls}", str(now), f"{before} {then}", "", ""
        yield line, Goal(f"{kind} {calls}, above those {before}", now - then, 0, False, "d")


def ending(bench: Bench, calls: int = 20) -> Iterator[Row]:
    """The lines and goals of calls that end early."""
    for how, found in endings(bench.repository, bench.model.facts.size[0], calls).items():
        name, most = f"{how} calls: steps finished after", max(found.steps)
        line = name, str(most), "", "", f"mean {sum(found.steps) / calls:.2f} of {calls} calls"
        yield line, Goal(name, most, 1, False, "d")
        name, grew = f"{how} calls: device seconds saved", sum(saved > 0 for saved in found.saved)
        line = name, f"{sum(found.saved):.1f} s", "", "", f"said of {grew} of {calls} calls"
        yield line, Goal(f"{name}, calls of which it is said", grew, calls, True, "d")


def queue(bench: Bench, steps: int = 5_000, rounds: int = 15) -> Iterator[Row]:
    """The lines and the goal of the scheduler alone."""
    lines = {jobs: LongQueue(jobs) for jobs in JOBS}
    seconds = medians({str(jobs): partial(line.run, steps) for jobs, line in lines.items()}, rounds)
    least = seconds[str(JOBS[0])]
    for jobs in JOBS:
        name, cost = f"{jobs:,} jobs in line", seconds[str(jobs)]
        goal = Goal(f"{name}: / {JOBS[0]} jobs", cost / least, 1.2, False) if jobs == JOBS[-1] else None
        yield (name, f"{1e6 * cost / steps:.2f} us", "", f"{cost / least:.2f}", ""), goal


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "throughput": throughput,
    "latency": one_at_a_time,
    "beside": beside,
    "memory": memory,
    "ending": ending,
    "queue": queue,
}


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description="What the service costs.")
    parser.add_argument("--part", choices=PARTS, help="one part alone")
    parser.add_argument("--calls", type=int, default=10_000, help="calls of the part memory, ten at least")
    given = parser.parse_args()
    if given.calls < 10:
        parser.error("ten calls at least: what is held after a tenth of them is looked at")
    return given


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    given = options()
    warnings.simplefilter("ignore")
    goals: list[Goal] = []
    with report("Serving: ResNet-18 at 224"), tempfile.TemporaryDirectory() as folder:
        bench = Bench(*deployed("resnet18", Path(folder)), Path(folder), given.calls)
        for name in (given.part,) if given.part else PARTS:
            rows = list(PARTS[name](bench))
            print(table((name, "ours", "beside", "ratio", ""), [line for line, _ in rows]) + "\n", flush=True)
            goals += [goal for _, goal in rows if goal is not None]
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
