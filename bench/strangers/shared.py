"""What the parts of `bench.hostile` share: a server, a stranger's tokens, and an innocent caller who asks meanwhile."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.callers.crowd import Crowd, Ended, crowd
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.figures import most, rest
from bench.common.proof import none
from bench.common.table import Goal, ms
from lightwell.serving import Server, bundled, served
from lightwell.v1 import explainer_pb2_grpc

QUIET, LOUD = "a-token-of-one-that-is-modest", "a-token-of-one-that-is-not"
ONE = ("--workers", "1", "--threads", "1")
MODEL = "shapes"
"""What is asked."""
ALONE = 6.0
"""Seconds of maps before anybody else comes."""
FIRST = 1.0
"""Seconds for which the innocent caller has its connection before the strangers come."""
MIB = 2**20


@dataclass(frozen=True)
class Part:
    """What a part has found: the innocent caller's maps alone and beside it, its goals, and what else there is to
    say."""

    name: str
    alone: Ended
    beside: Ended
    goals: Sequence[Goal]
    notes: Sequence[str] = ()

    def line(self) -> tuple[str, ...]:
        """As columns of a table."""
        seconds = p95(self.alone), p95(self.beside)
        return (self.name, f"{self.beside.sent:,}", f"{failed(self.beside):,}", *map(ms, seconds), self.ratio)

    @property
    def ratio(self) -> str:
        """How much longer maps took, at their 95th percentile."""
        return f"{p95(self.beside) / p95(self.alone):.2f}"


@dataclass
class Target:
    """A server that has answered an innocent caller's maps for a while: `alone`. `rest` is what its gateway held
    then, in MiB; `folder` is for files."""

    name: str
    server: Server
    folder: Path
    quiet: Crowd
    alone: Ended
    rest: float
    beside: Ended = field(default_factory=lambda: Ended({}, 0, 0))

    @contextmanager
    def asked(self, seconds: float) -> Iterator[None]:
        """The innocent caller asks maps meanwhile, for so long at least, on a connection that it has had before."""
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.quiet.closed, 1, seconds + FIRST)
            time.sleep(FIRST)
            yield
            self.beside = asked.result()

    def risen(self, bound: float) -> Goal:
        """By how much the gateway's memory has risen, and by how much it may, in MiB."""
        risen = most(self.server.process.pid) - self.rest
        return Goal(f"{self.name}: memory of the gateway beyond its rest", risen, bound, False, ".0f", " MiB")

    def found(self, *goals: Goal, notes: Sequence[str] = ()) -> Part:
        """What has been found, and that the server ends: called while the strangers are still there."""
        ends = f"another caller's maps: {self.beside.line()}"
        always = (
            none(f"{self.name}: another caller's maps that failed", failed(self.beside)),
            lives(self.name, self.server),
            ended(self.name, self.server),
        )
        return Part(self.name, self.alone, self.beside, (*goals, *always), (*notes, ends))


@contextmanager
def target(
    name: str, *options: str, repository: Path | None = None, callers: Sequence[str] = (LOUD,)
) -> Iterator[Target]:
    """A server with one worker that knows the callers by their tokens."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.toml"
        entries = [f'[c{i}]\ntoken = "{token}"\nrights = ["explain", "admin"]\n' for i, token in enumerate(callers)]
        tokens.write_text("".join(entries) + f'[quiet]\ntoken = "{QUIET}"\n')
        options = (*ONE, *SHORT_GRACE, "--tokens", str(tokens), *options)
        with served(repository or bundled(), *options) as server, crowd(server.address, QUIET, MODEL) as quiet:
            quiet.closed(1, 2)
            alone = quiet.closed(1, ALONE)
            yield Target(name, server, Path(folder), quiet, alone, rest(server.process.pid))


@contextmanager
def administrator(address: str) -> Iterator[Callable[[str, Any], Any]]:
    """Calls the service for administrators by a call's name, with its request."""
    with grpc.insecure_channel(address) as channel:
        stub = explainer_pb2_grpc.AdminServiceStub(channel)

        def ask(name: str, request: Any) -> Any:  # noqa: ANN401 - of any call
            return getattr(stub, name)(request, metadata=(("authorization", f"Bearer {LOUD}"),), timeout=60)

        yield ask


def failed(maps: Ended) -> int:
    """How many were not answered."""
    return maps.sent - len(maps.answered)


def p95(maps: Ended) -> float:
    """Seconds; for ever if nothing was answered."""
    return float(np.percentile(maps.answered, 95)) if maps.answered else float("inf")
