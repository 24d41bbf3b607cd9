"""How long a saliency map takes beside long requests: in one engine in this process, and served."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.device.engine import job, pictures, received
from bench.device.serving import asker
from lightwell.serving import served
from lightwell_server.contract import GRAD, OUTPUT, Answer, Part
from lightwell_server.engine.engine import Engine
from lightwell_server.engine.run import Event, Failed, Run
from lightwell_server.engine.scheduler import Charged, Scheduler, Ticket
from lightwell_server.methods.style_transfer import Style
from lightwell_server.models.answer import answer
from lightwell_server.models.graph import Graph
from lightwell_server.models.store import Model

TRANSFERS = 4
OCCLUSIONS = 2
SIZE = 224
STRIDE = 4
"""Of the occlusions: 2401 windows a picture."""


def p95(seconds: Sequence[float]) -> float:
    """The 95th percentile."""
    return float(np.percentile(seconds, 95))


@dataclass
class Latency:
    """Seconds of each saliency map alone and beside other requests, and of each device step of the others."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def bound(self) -> float:
        """What a map may wait for: its own time and the longest step that it can find at work."""
        return p95(self.alone) + max(self.steps)


class FirstCome(Scheduler):
    """Runs each request to its end before the next one, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived: dict[Charged, int] = {}

    def add(self, ticket: Ticket, now: float) -> None:
        """Puts a ticket in line by its job's arrival. The engine adds a job's next ticket before it takes the next
        step, so that whoever is at work stays first."""
        ticket.alone = True
        super().add(ticket, now)

    def rank(self, ticket: Ticket, now: float) -> int:
        """How many jobs came before."""
        return self._arrived.setdefault(ticket.run, len(self._arrived))


class FirstComeWorker(Engine):
    """An engine with that scheduler."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - those of its base
        super().__init__(*arguments)
        self._scheduler = FirstCome()  # nothing has been submitted yet


class Timed:
    """Answers steps, and notes the seconds of those of other methods than saliency."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def __call__(self, graph: Graph, parts: Sequence[Part]) -> list[Answer]:
        """Answers one step."""
        began = time.perf_counter()
        answers = answer(graph, parts)
        ask = parts[0].ask
        if ask.at != OUTPUT or not ask.want & GRAD:
            self.steps.append(time.perf_counter() - began)
        return answers


def latencies(model: Model, maps: int = 40, rounds: int = 3) -> Latency:
    """In process: asks saliency maps one after the other, `maps` alone and `maps` beside the transfers in each
    round."""
    found, timed = Latency(), Timed()
    worker = Engine(timed)
    try:
        _asked(worker, model, maps // 4)
        for _ in range(rounds):
            found.alone += _asked(worker, model, maps)
            with _at_work(worker, model):
                _asked(worker, model, maps // 4)
                timed.steps.clear()
                found.beside += _asked(worker, model, maps)
                found.steps += timed.steps
    finally:
        worker.stop()
    return found


@dataclass(frozen=True)
class Paced:
    """Seconds of saliency maps that were asked at a steady pace, and of each step of the others; how many of these
    were still at work when the last map had come."""

    maps: list[float]
    steps: list[float]
    left: int


def paced(kind: type[Engine], model: Model, maps: int = 40, pace: float = 0.5, steps: int = 50) -> Paced:
    """In process, with an engine of that kind: asks a saliency map every `pace` seconds, whether or not those before
    it have come, beside the transfers of so many steps and the occlusions."""
    timed = Timed()
    worker = kind(timed)
    try:
        _asked(worker, model, 10)
        with _at_work(worker, model, OCCLUSIONS, steps) as others:
            timed.steps.clear()
            seconds = _arriving(worker, model, maps, pace)
            return Paced(seconds, list(timed.steps), sum(not other.over for other in others))
    finally:
        worker.stop()


def latencies_served(repository: Path, maps: int = 40, rounds: int = 2) -> Latency:
    """Served: asks saliency maps one after the other, `maps` alone and `maps` beside the transfers and the occlusions
    in each round. Steps are not seen from outside."""
    found = Latency()
    with served(repository) as server, asker(server.address, 1, "tensor") as ask:
        ask(10)
        for _ in range(rounds):
            found.alone += [ask(1) for _ in range(maps)]
            with _load(server.address):
                found.beside += [ask(1) for _ in range(maps)]
    return found


def _asked(worker: Engine, model: Model, maps: int) -> list[float]:
    """Seconds of so many maps, from submitting a job to having its map."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    seconds = []
    for picture in pictures(maps):
        began = time.perf_counter()
        worker.submit(job(model, "saliency", picture, events.put))
        received(events.get())
        seconds.append(time.perf_counter() - began)
    return seconds


def _arriving(worker: Engine, model: Model, maps: int, pace: float) -> list[float]:
    """Seconds of so many maps, one asked every `pace` seconds."""
    finished: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()

    def finish(began: float, event: Event) -> None:
        finished.put((time.perf_counter() - began, event))

    first = time.perf_counter()
    for i, picture in enumerate(pictures(maps)):
        time.sleep(max(0.0, first + i * pace - time.perf_counter()))
        worker.submit(job(model, "saliency", picture, partial(finish, time.perf_counter())))
    seconds = []
    for _ in range(maps):
        elapsed, event = finished.get()
        received(event)
        seconds.append(elapsed)
    return seconds


@contextmanager
def _at_work(worker: Engine, model: Model, occlusions: int = 0, steps: int = 10_000) -> Iterator[list[Run]]:
    """Style transfers of so many steps, and occlusions, at work in an engine."""
    style, *contents = pictures(TRANSFERS + occlusions + 1)
    given = {"styles": (Style(style[None].float() / 255),), "size": SIZE, "steps": steps}
    heard: queue.SimpleQueue[Failed | None] = queue.SimpleQueue()

    def hear(event: Event) -> None:
        heard.put(event if isinstance(event, Failed) else None)  # frames would keep their pictures

    jobs = [job(model, "style_transfer", content, hear, **given) for content in contents[:TRANSFERS]]
    jobs += [job(model, "occlusion", content, hear, stride=STRIDE) for content in contents[TRANSFERS:]]
    for each in jobs:
        worker.submit(each)
    for _ in range(3 * TRANSFERS):
        heard.get(timeout=60)
    yield jobs
    for each in jobs:
        worker.cancel(each)
    while worker.runs:
        time.sleep(0.01)
    while not heard.empty():
        if (failed := heard.get()) is not None:
            raise failed.error


@contextmanager
def _load(address: str) -> Iterator[None]:
    """The same asked of a server, by a client process."""
    command = [sys.executable, "-m", "bench.callers.load", address, str(TRANSFERS), str(OCCLUSIONS), str(STRIDE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        try:
            yield
            assert process.poll() is None, "the long requests ended early"
        finally:
            process.terminate()
