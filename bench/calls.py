"""What ordinary calls cost beside another commit: `python -m bench.calls --against REV`.

Two servers, one of each commit, answer the same calls of the bundled model, asked by this commit's client: one here,
one there, each time another one first, so that both meet the same machine. A call's figure is the median of the ratios
of these pairs.
The generated protos are this commit's: a commit with other ones cannot be compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lightwell
from bench.common.against import ROOT, checked_out
from bench.common.table import Goal, ms, print_goals, progress, report, table
from lightwell import Client, GradCam, Saliency
from lightwell.serving import bundled, served

PAIRS, BURSTS, MANY = 200, 12, 64
"""Calls of a kind at each server, and of the kind that is many calls, of which 32 are in flight."""
SLOWER = 1.05
"""The most that a call may take of the other's seconds."""
PICTURE = Path(lightwell.__file__).parent / "samples" / "star.png"
Call = Callable[[Client], object]
KINDS: dict[str, tuple[int, Call]] = {
    "models": (PAIRS, lambda client: client.models()),
    "saliency": (PAIRS, lambda client: client.explain(PICTURE, Saliency())),
    "saliency, an overlay": (PAIRS, lambda client: client.explain(PICTURE, Saliency(), pictures=["overlay"])),
    "grad_cam, a stream": (PAIRS, lambda client: client.explain_stream(PICTURE, GradCam()).result()),
    f"saliency, {MANY} with 32 in flight": (
        BURSTS,
        lambda client: list(client.explain_all([PICTURE] * MANY, Saliency(), concurrency=32)),
    ),
}
"""How often each kind of call is made, and how."""


@contextmanager
def _asked(tree: Path) -> Iterator[Client]:
    """A client of a server that runs the code of one tree."""
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(tree / part) for part in ("client", "server"))
    try:
        with served(bundled()) as server, Client(server.address) as client:
            yield client
    finally:
        os.environ.pop("PYTHONPATH") if kept is None else os.environ.update(PYTHONPATH=kept)


def _seconds(client: Client, call: Call) -> float:
    began = time.perf_counter()
    call(client)
    return time.perf_counter() - began


def _compared(revision: str) -> dict[str, list[tuple[float, float]]]:
    """Seconds here and there of each pair of calls; the first one of a kind is left out."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        there = stack.enter_context(checked_out(revision))
        shutil.copytree(ROOT / "client/lightwell/v1", there / "client/lightwell/v1", dirs_exist_ok=True)
        clients = [stack.enter_context(_asked(tree)) for tree in (ROOT, there)]
        tell = stack.enter_context(progress(len(KINDS)))
        for kind, (count, call) in KINDS.items():
            for turn in range(1 + count):
                taken = {i: _seconds(clients[i], call) for i in ((0, 1) if turn % 2 else (1, 0))}
                if turn:
                    found[kind].append((taken[0], taken[1]))
            tell(kind)
    return found


def main() -> int:
    """Compares and prints; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description="Calls beside those of another commit.")
    parser.add_argument("--against", metavar="REV", required=True, help="the commit that is compared with")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with report(f"Calls: the bundled model, beside {given.against}", workers=True):
        rows, goals = [], []
        for kind, pairs in _compared(given.against).items():
            here, there = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            rows.append((kind, ms(here), ms(there), f"{ratio:.2f}"))
            goals.append(Goal(f"{kind}: seconds here / there", ratio, SLOWER, False))
        print(table(("call", "here", "there", "ratio"), rows), flush=True)
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
