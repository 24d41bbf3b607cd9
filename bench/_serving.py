"""What serving costs: a server asked by a client beside the engine driven in this process, in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench._engine import drive
from bench._table import medians
from lightwell.serving import served
from lightwell_server.engine.worker import Worker
from lightwell_server.models.answer import answer
from lightwell_server.models.store import Model

IN_FLIGHT = 16


def throughputs(repository: Path, model: Model, count: int = 48, rounds: int = 5) -> tuple[float, float]:
    """Saliency maps a second, served and driven in process: medians over rounds of `count` maps each."""
    worker = Worker(answer)
    try:
        with served(repository) as server, asker(server.address) as ask:
            contestants = {
                "served": lambda: ask(count),
                "driven": lambda: drive(worker, model, count, IN_FLIGHT),
            }
            seconds = medians(contestants, rounds, warm=1)
    finally:
        worker.stop()
    return count / seconds["served"], count / seconds["driven"]


@contextmanager
def asker(address: str) -> Iterator[Callable[[int], float]]:
    """A client process; calling asks it for so many maps and returns its seconds."""
    command = [sys.executable, "-m", "bench._asker", address, str(IN_FLIGHT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        to, back = process.stdin, process.stdout

        def ask(count: int) -> float:
            print(count, file=to, flush=True)
            return float(back.readline())

        yield ask
        to.close()
