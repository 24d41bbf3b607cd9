"""Strangers who behave badly around requests: `python -m bench.hostile [--only NAME] [--seconds S]`.

A server answers the bundled model, on the loopback alone. In each part strangers do something that no usual client
does, bounded in number and time, while an innocent caller asks one small saliency map after the other; none of those
may fail. In the end, with the strangers still there, the server is told to stop, and must within settling, grace, and
2 seconds. The parts:

- health: 32 watches that never read, and 4 questions that do not come as a whole; a model is loaded beside them.
- memory: 16 callers with the largest pictures of every form; the gateway keeps to its budget of memory.
- half_sent: 20 streams send nine tenths of a large request and stop.
- unread: 40 answers of several MiB that nobody reads.
- codecs: four pictures every other second whose decoding takes long.
- caller: one caller floods, with 200 short requests and dense occlusions at a time.
- parts: messages of a million empty list entries, map entries, numbers.
- names: directories of the repository with strange names, and a pipe in the place of a model.
- connections: 500 connections that do nothing, of which the server takes 200.
- resets: one connection opens and resets 200 calls a second.
- collector: a collector of traces that never answers.
- signals: SIGHUP five times a second.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping

from bench.common.table import print_goals, report, table
from bench.strangers import callers as callers
from bench.strangers import connections as connections
from bench.strangers import halves as halves
from bench.strangers import health as health
from bench.strangers import outside as outside
from bench.strangers import pictures as pictures
from bench.strangers.shared import Part

PARTS: Mapping[str, Callable[[float], Part]] = {
    "health": health.prove,
    "memory": pictures.memory,
    "half_sent": halves.half_sent,
    "unread": halves.unread,
    "codecs": pictures.codecs,
    "caller": callers.caller,
    "parts": callers.parts,
    "names": outside.names,
    "connections": connections.connections,
    "resets": connections.resets,
    "collector": outside.collector,
    "signals": outside.signals,
}
SECONDS = 20.0
HEAD = ("part", "maps", "failed", "p95 alone", "p95 beside", "ratio")


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description="Strangers who behave badly.")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part alone; may be repeated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long each part takes ({SECONDS:.0f})")
    return parser.parse_args()


def main() -> int:
    """Proves and prints; returns 1 if a goal is missed."""
    given = options()
    warnings.simplefilter("ignore")
    found: list[Part] = []
    with report("Strangers: the bundled model beside those who behave badly", workers=True):
        for name in given.only or PARTS:
            found.append(PARTS[name](given.seconds))
            print("".join((f"{name}\n", *(f"  {note}\n" for note in found[-1].notes))), flush=True)
        print(table(HEAD, [part.line() for part in found]))
    goals = [goal for part in found for goal in part.goals]
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
