"""That nothing is lost, whatever happens: `python -m bench.faults [--proof NAME] [--seconds S]`.

Servers with worker processes answer the bundled model under load while something goes wrong. Each proof counts the
requests that were sent, answered, begun more than once, refused for a reason that belongs to the proof, and lost. The
proofs:

- kill: a random worker is killed every 5 seconds; all answers are those of an undisturbed server.
- stop: a worker is stopped and does not answer any more; it is replaced, and what it had is answered elsewhere.
- takeover: a server is told to stop while another one takes over; no call of the SDK fails.
- poison: a request that ends each worker that runs it is refused, and all others are answered.
- swap: other versions of the model come and go; each answer is the one of the version that it names.
- overload: ten times the capacity, by a clock; what is let in is answered in time, and the rest refused at once. Beside
  it a server that refuses nothing.
- flood: a caller has as many long transfers as it may, and asks for more; another one's maps still come.
- endings: thousands of calls with random deadlines, cancels and hang-ups; nothing of them stays.
- scale: two workers beside one, and the bits of their answers.
- prediction: predicted device seconds beside those that were used.
- memory: 256 callers send the largest pictures of every form to a server that may hold 2 GiB.
- files: connections take all files that the server may open, and a worker is killed.
- disk: the disk of temporary files is full, and a worker is killed.
- load: a model never ends while it is loaded; others answer meanwhile, and it is refused.
- floods: one caller asks all that it may, in three ways; another one's maps still come.
- soak: a mixed load for half an hour, or as long as --seconds says; no process grows.

The last six are told to stop at their end, and how long that took is a figure of each. What a machine does not allow
(memory, disk) is told as not measured.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings

from bench.common.proof import Proof
from bench.common.table import Goal, print_goals, report, table

PROOFS = {
    "kill": "bench.fault.kill",
    "stop": "bench.fault.stop",
    "takeover": "bench.fault.takeover",
    "poison": "bench.fault.poison",
    "swap": "bench.fault.swap",
    "overload": "bench.fault.overload",
    "flood": "bench.fault.flood",
    "endings": "bench.fault.endings",
    "scale": "bench.fault.scale",
    "prediction": "bench.fault.prediction",
    "memory": "bench.fault.memory",
    "files": "bench.fault.files",
    "disk": "bench.fault.disk",
    "load": "bench.fault.load",
    "floods": "bench.fault.floods",
    "soak": "bench.fault.soak",
}
"""The module of each proof; its `prove(seconds)` loads for so many seconds, its `USUAL` if it has one."""
SECONDS = 60.0
HEAD = ("proof", "sent", "answered", "retried", "refused", "lost")


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="That nothing is lost.")
    parser.add_argument("--proof", choices=PROOFS, action="append", help="one proof alone; may be repeated")
    parser.add_argument("--seconds", type=float, help=f"how long each proof loads ({SECONDS:.0f}; soak: half an hour)")
    return parser.parse_args()


def main() -> int:
    """Proves and prints; returns 1 if a goal is missed."""
    given = options()
    warnings.simplefilter("ignore")
    goals: list[Goal] = []
    with report("Faults: the bundled model, and ResNet-18 with random weights", workers=True):
        for name in given.proof or PROOFS:
            module = importlib.import_module(PROOFS[name])
            proof: Proof = module.prove(given.seconds or getattr(module, "USUAL", SECONDS))
            print(table(HEAD, [(proof.name, *proof.counts.line())]))
            print("".join(f"  {note}\n" for note in proof.notes), flush=True)
            goals += proof.goals
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
