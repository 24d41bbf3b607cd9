"""How long a saliency map takes beside running style transfers, in one engine in this process."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from bench._engine import job, pictures, received
from lightwell_server.ask import Answer, Part
from lightwell_server.engine.job import Event
from lightwell_server.engine.worker import Worker
from lightwell_server.methods.style_transfer import Style
from lightwell_server.models.answer import answer
from lightwell_server.models.graph import Graph
from lightwell_server.models.store import Model

TRANSFERS = 4
SIZE = 224


@dataclass
class Latency:
    """Seconds of each saliency map alone and beside the transfers, and of each device step of the transfers."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def p95(self, name: str) -> float:
        """The 95th percentile of one of them."""
        return float(np.percentile(getattr(self, name), 95))

    @property
    def bound(self) -> float:
        """What a map may wait for: its own time and the longest step that it can find at work."""
        return self.p95("alone") + max(self.steps)


def latencies(model: Model, maps: int = 40, rounds: int = 3) -> Latency:
    """Asks saliency maps one after the other, `maps` alone and `maps` beside the transfers in each round. Steps are
    timed around the function that answers them."""
    found, steps = Latency(), list[float]()

    def timed(graph: Graph, parts: Sequence[Part]) -> list[Answer]:
        began = time.perf_counter()
        answers = answer(graph, parts)
        if isinstance(parts[0].ask.at, tuple):  # layers of a style transfer; saliency reads the output
            steps.append(time.perf_counter() - began)
        return answers

    worker = Worker(timed)
    try:
        _asked(worker, model, maps // 4)
        for _ in range(rounds):
            found.alone += _asked(worker, model, maps)
            with _transfers(worker, model):
                _asked(worker, model, maps // 4)
                steps.clear()
                found.beside += _asked(worker, model, maps)
                found.steps += steps
    finally:
        worker.stop()
    return found


def _asked(worker: Worker, model: Model, maps: int) -> list[float]:
    """Seconds of so many maps, from submitting a job to having its map."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    seconds = []
    for picture in pictures(maps):
        began = time.perf_counter()
        worker.submit(job(model, "saliency", picture, events.put))
        received(events.get())
        seconds.append(time.perf_counter() - began)
    return seconds


@contextmanager
def _transfers(worker: Worker, model: Model) -> Iterator[None]:
    """Four style transfers at work, with far more steps than they will be given time for."""
    style, *contents = pictures(TRANSFERS + 1)
    given = {"styles": (Style(style[None].float() / 255),), "size": SIZE, "steps": 10_000}
    begun: queue.SimpleQueue[Event] = queue.SimpleQueue()
    jobs = [job(model, "style_transfer", content, begun.put, **given) for content in contents]
    for each in jobs:
        worker.submit(each)
    for _ in range(3 * TRANSFERS):
        begun.get(timeout=60)
    yield
    for each in jobs:
        worker.cancel(each)
    while worker.jobs:
        time.sleep(0.01)
