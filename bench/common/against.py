"""How long lifting takes beside another commit's: both lift the same files in turn, each in a process of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.common.nets import export, original
from bench.common.table import Goal, progress, table

FILES = {
    "resnet18": "scripted",
    "deit_tiny_patch16_224": "traced",
    "efficientnet_b0": "pt2",
    "swin_t": "traced",
}
"""Networks, and the forms of their files."""
ROUNDS = 5
SLOWER = 1.1
"""The most that lifting may take of the other's seconds."""
ROOT = Path(__file__).parents[2]
HEAD = ("file", "seconds", "there", "ratio")

Seconds = dict[str, list[tuple[float, float]]]
"""Seconds here and there of each file, a pair for each round."""


class Lifter:
    """A process that lifts files by the code of one tree."""

    def __init__(self, tree: Path) -> None:
        packages = os.pathsep.join(str(tree / part) for part in ("client", "server"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "bench" / "files" / "lifter.py"), str(tree)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": packages},
        )

    def seconds(self, path: Path) -> float:
        """Processor seconds that a file takes. Raises RuntimeError if the process ends instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            raise RuntimeError(f"{path.name} does not lift, as standard error says")
        return float(told)

    def __enter__(self) -> Lifter:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The packages of another commit of this repository in a folder. Raises ValueError if there is no such commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.tar"
        command = ["git", "-C", str(ROOT), "archive", "-o", str(archive), revision, "client", "server"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise ValueError(f"git has no {revision}: {made.stderr.strip()}")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)


def compared(revision: str) -> Seconds:
    """Seconds here and there of each file in each round; who begins changes from round to round, and a first round is
    left out."""
    seconds: Seconds = {}
    with ExitStack() as stack:
        there = stack.enter_context(checked_out(revision))
        files = list(_written(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        trees = [stack.enter_context(Lifter(tree)) for tree in (ROOT, there)]
        tell = stack.enter_context(progress((1 + ROUNDS) * len(files)))
        for turn in range(1 + ROUNDS):
            for path in files:
                order = (0, 1) if turn % 2 else (1, 0)
                taken = {i: trees[i].seconds(path) for i in order}
                if turn:
                    seconds.setdefault(path.name, []).append((taken[0], taken[1]))
                tell(f"{path.name}  {taken[0]:.2f}  {taken[1]:.2f}")
    return seconds


def _written(folder: Path) -> Iterator[Path]:
    for name, form in FILES.items():
        made = original(name)
        path = folder / f"{name}_{form}.{'pt2' if form == 'pt2' else 'pt'}"
        yield export(made.copied(), form, path, made.sample, made.free)


def print_seconds(seconds: Seconds) -> None:
    """The medians of each file."""
    rows = []
    for name, pairs in seconds.items():
        here, there = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append((name, f"{here:.2f}", f"{there:.2f}", f"{_ratio(pairs):.2f}"))
    print(table(HEAD, rows), flush=True)


def goal(seconds: Seconds) -> Goal:
    """Lifting takes little longer than there."""
    mean = statistics.geometric_mean(_ratio(pairs) for pairs in seconds.values())
    return Goal("seconds to lift / there: mean of the files' medians", mean, SLOWER, False)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(here / there for here, there in pairs)
