"""A second worker on a second core: how much more is answered, and that the answers are the same."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.callers.asker import photographs
from bench.callers.crowd import Crowd, crowd
from bench.common.processes import Family, processor_seconds
from bench.common.proof import Counts, Proof, none
from bench.common.table import Goal
from bench.fault.overload import light
from lightwell import Client, GradCam, Occlusion, Pgd, Saliency
from lightwell.serving import served

ROUNDS = 5
IN_FLIGHT = 8
LARGE = 320
"""Side of the pictures that the model takes: a map is then mostly the worker's work, for gateway and callers share the
workers' processors."""
METHODS = (Saliency(), GradCam(), Occlusion(stride=32))


@dataclass
class Team:
    """A server with so many workers of one thread each, its callers on the last core; what it has answered in each
    round a second, and in all."""

    workers: int
    address: str
    family: Family
    callers: Crowd
    rates: list[float] = field(default_factory=list)
    answered: int = 0
    sent: int = 0

    def ask(self, seconds: float) -> None:
        """One round."""
        ended = self.callers.closed(IN_FLIGHT, seconds)
        self.rates.append(len(ended.answered) / ended.seconds)
        self.answered += len(ended.answered)
        self.sent += ended.sent

    def answers(self) -> list[bytes]:
        """Reproducible requests of several methods, to the bit."""
        with Client(self.address) as client:
            maps = [
                client.explain(photo, method, reproducible=True).values.tobytes()
                for photo in photographs()
                for method in METHODS
            ]
            attack = client.synthesize(Pgd(steps=5), image=photographs()[0], reproducible=True, seed=1).result()
        return [*maps, attack.message.png]

    @property
    def note(self) -> str:
        """Where the processors' time went."""
        (gateway, workers), callers = self.family.seconds(), processor_seconds(self.callers.pid)
        return (
            f"{self.workers} workers: {statistics.median(self.rates):.1f} maps/s"
            f" ({', '.join(f'{rate:.1f}' for rate in self.rates)}); processor seconds with the start"
            f" and {self.answered} maps: gateway {gateway:.1f}, workers {workers:.1f}, callers {callers:.1f}"
        )


def prove(seconds: float) -> Proof:
    """Asks both servers in turn, for so many seconds in all."""
    with tempfile.TemporaryDirectory() as folder:
        repository = light(Path(folder), LARGE)
        with _team(repository, 1) as one, _team(repository, 2) as two:
            differ = sum(a != b for a, b in zip(one.answers(), two.answers(), strict=True))
            for turn in range(-1, ROUNDS):
                for team in (one, two) if turn % 2 else (two, one):
                    team.ask(seconds / ROUNDS / 2)
                    if turn < 0:
                        team.rates.clear()
            return _proof(one, two, differ)


def _proof(one: Team, two: Team, differ: int) -> Proof:
    sent, answered = one.sent + two.sent, one.answered + two.answered
    ratio = statistics.median(two.rates) / statistics.median(one.rates)
    goals = [
        Goal("scale: throughput of 2 workers / 1", ratio, 1.6, True),
        none("scale: answers that differ", differ),
    ]
    return Proof("scale", Counts(sent, answered, 0, 0, sent - answered), goals, [one.note, two.note])


@contextmanager
def _team(repository: Path, workers: int) -> Iterator[Team]:
    options = ("--workers", str(workers), "--threads", "1")
    with served(repository, *options) as server, crowd(server.address) as callers:
        os.sched_setaffinity(callers.pid, {max(os.sched_getaffinity(0))})
        yield Team(workers, server.address, Family(server.process.pid), callers)
