"""What the benchmarks share: the machine and its load, tables, goals, and the times of contestants asked in turn."""

from __future__ import annotations

import itertools
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

BUSY = 0.1
"""The share of the cores in use by others from which on a machine is called busy."""


@dataclass(frozen=True)
class Goal:
    """A figure and what it shall be, at least or at most."""

    name: str
    figure: float
    bound: float
    at_least: bool
    form: str = ".2f"
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure, as it was measured, keeps the bound."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def line(self) -> tuple[str, str, str, str]:
        """Name, figure, goal, and met or missed."""
        figure, bound = (f"{value:{self.form}}{self.unit}" for value in (self.figure, self.bound))
        return self.name, figure, f"at {'least' if self.at_least else 'most'} {bound}", "met" if self.met else "MISSED"


Row = tuple[tuple[str, ...], Goal | None]
"""A line of a table, and its goal if it has one."""


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{1000 * seconds:.1f} ms"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line: the first to the left, figures to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_aligned(line, widths) for line in (lines[0], rule, *lines[1:]))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
    return "  ".join(cells).rstrip()


def print_goals(goals: Sequence[Goal]) -> None:
    """A line for each goal."""
    print("\n" + table(("goal", "figure", "goal is", ""), [goal.line() for goal in goals]), flush=True)


@contextmanager
def report(title: str, device: str = "cpu", workers: bool = False) -> Iterator[None]:
    """Prints what is measured on what, and at the end how much of the cores others had meanwhile. With `workers`, those
    are among them: who starts their server is told nothing of what they use."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    print(title)
    print(
        f"device {device} ({_processor()}), {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    busy = ", busy" if load > 2 * BUSY * cores else ""
    print(f"load in the minute before: {load:.2f}{busy}\n", flush=True)
    began, used, own = time.monotonic(), _all_seconds(), _own_seconds()
    yield
    seconds = time.monotonic() - began
    others = max(0.0, _all_seconds() - used - _own_seconds() + own) / seconds / cores
    busy = " - BUSY: times are disturbed" if others > BUSY and not workers else ""
    whose = "worker and other processes" if workers else "other processes"
    print(f"\nmeasured in {seconds:.0f} s, in which {whose} used {others:.0%} of the cores{busy}")


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Gives a function that is called with a line for each of `total` steps done: it prints the line on stderr, in a
    terminal above a bar if there is rich."""
    try:
        from rich.console import Console
        from rich.progress import Progress, TimeElapsedColumn
    except ImportError:
        bar = None
    else:
        bar = Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True))
    if bar is None or not sys.stderr.isatty():
        numbers = itertools.count(1)
        yield lambda line: print(f"[{next(numbers)}/{total}] {line}", file=sys.stderr, flush=True)
        return
    with bar:
        task = bar.add_task("files", total=total)

        def tell(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            bar.advance(task)

        yield tell


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int, warm: int = 3) -> dict[str, float]:
    """The median seconds of each contestant. In each round each is called once, every other round in reverse."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm, rounds):
        for name in names if turn % 2 else reversed(names):
            began = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _all_seconds() -> float:
    """Processor seconds that all processes have used since the machine started; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
