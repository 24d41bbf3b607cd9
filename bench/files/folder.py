"""What lifting makes of a folder of files, each in a process of its own, so that one that crashes hides no other."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.common.table import Goal, progress, table
from bench.files.filed import Found
from lightwell_server.errors import last_line

SUFFIXES = (".pt", ".pt2", ".torchscript", ".ts", ".ptl", ".jit")
HEAD = ("file", "answer", "output", "gradient", "seconds", "MB", "activation", "default layer")
SECONDS, GIGABYTES = 600, 12.0
"""What a file may take."""
BOUNDS = {"float64": (1e-6, 1e-4)}
COARSE = (1e-4, 1e-2)
"""The differences of outputs and of gradients from which on a graph is not the file, by the type of numbers that they
were compared in."""


@dataclass(frozen=True)
class Tried:
    """A file by its name within the folder, and what came of it; None if its process ended without an answer, for
    `reason`."""

    name: str
    found: Found | None
    reason: str

    @property
    def answer(self) -> str:
        """Lifted, refused or ended."""
        if self.found is None:
            return "ended"
        return "lifted" if self.found.lifted else "refused"

    @property
    def right(self) -> bool:
        """Whether its graph is the file, as far as that gives a gradient."""
        if self.found is None or self.found.output is None:
            return False
        output, gradient = BOUNDS.get(self.found.dtype, COARSE)
        return self.found.output <= output and (self.found.gradient or 0.0) <= gradient


def tried(folder: Path, size: tuple[int, int] | None, seconds: float = SECONDS) -> list[Tried]:
    """All model files below a folder, tried in turn."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    done = []
    with progress(len(paths)) as tell:
        for path in paths:
            done.append(_tried(path, str(path.relative_to(folder)), size, seconds))
            tell("  ".join(_row(done[-1])))
    return done


def _tried(path: Path, name: str, size: tuple[int, int] | None, seconds: float) -> Tried:
    command = [sys.executable, "-m", "bench.files.filed", str(path), str(GIGABYTES), *map(str, size or ())]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds)
    except subprocess.TimeoutExpired:
        return Tried(name, None, f"it took more than {seconds:g} s")
    if ended.returncode:
        said = last_line(RuntimeError(ended.stderr.strip() or "nothing was said"))
        return Tried(name, None, f"its process ended with {_status(ended.returncode)}: {said}")
    found = Found(**json.loads(ended.stdout.splitlines()[-1]))  # the file's own code may print, too
    return Tried(name, found, found.reason)


def _status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def print_files(done: list[Tried]) -> None:
    """The table, and below it the sentences of each file: why it is refused, and what was found while it was read."""
    print(table(HEAD, [_row(each) for each in done]))
    if any(each.found is not None and each.found.dtype not in ("", "float64") for each in done):
        print("* The file does not run in double precision: compared in its own.")
    print()
    for each in done:
        for sentence in _sentences(each):
            print(f"{each.name}: {sentence}")
    counts = Counter(each.answer for each in done)
    print(f"\n{len(done)} files: {', '.join(f'{count} {answer}' for answer, count in counts.items())}\n", flush=True)


def _row(each: Tried) -> tuple[str, ...]:
    found = each.found or Found()
    star = "*" if found.dtype not in ("", "float64") else ""
    differences = ("-" if value is None else _shown(value) + star for value in (found.output, found.gradient))
    peak = "-" if found.peak is None else f"{found.peak:.0f}"
    return (
        each.name,
        each.answer,
        *differences,
        f"{found.seconds:.2f}",
        peak,
        found.activation or "-",
        found.layer or "-",
    )


def _shown(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "differs"


def _sentences(each: Tried) -> Iterator[str]:
    if each.reason:
        yield each.reason
    if each.found is not None:
        yield from each.found.notes


def goals(done: list[Tried]) -> Iterator[Goal]:
    """None lifts to another function than the file's, or ends its process."""
    wrong = sum(each.answer == "lifted" and not each.right for each in done)
    yield Goal("files that lift, and that their own output and gradient do not confirm", wrong, 0, False, "d")
    ended = sum(each.found is None for each in done)
    yield Goal("files whose process ended without an answer", ended, 0, False, "d")
