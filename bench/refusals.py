"""What a refusal costs beside a load: `python -m bench.refusals`.

The commonest mistakes that people make with `lightwell models check`, in the card or in the file, are made on a small
convolutional network, on a ResNet-18 and on a small vision transformer, with random weights. Each is checked in a
process of its own, which has imported all there is, and so is the right file by the right card. The columns are
processor seconds, on one thread, and the megabytes by which memory rose at its peak, of the mistake as shares of the
right check's; below them stands the sentence that each mistake is told. `--only` chooses networks, `--rounds` says how
often each is checked: the medians count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from bench.common.quiet import quiet
from bench.common.table import Goal, print_goals, progress, report, table
from bench.files.checked import Checked, checked, ready
from bench.files.mistakes import MISTAKES, Mistake
from bench.files.miswritten import NETWORKS, Network

MOST = 1.5
"""The most that a mistake may cost of the right check."""
SMALLEST = 1.0
"""Megabytes from which on memory is compared."""
HEAD = ("mistake", "seconds", "right", "ratio", "MB", "right", "ratio")


@dataclass(frozen=True)
class Refusal:
    """A mistake on a network: what it cost and was told, and what the right check did."""

    network: str
    mistake: str
    wrong: Checked
    right: Checked

    @property
    def seconds(self) -> float:
        """The share of the right check's seconds."""
        return self.wrong.seconds / self.right.seconds

    @property
    def memory(self) -> float | None:
        """The share of the right check's memory; None where the system does not tell, or neither took any."""
        if self.wrong.peak is None or self.right.peak is None:
            return None
        return max(SMALLEST, self.wrong.peak) / max(SMALLEST, self.right.peak)


def refusals(network: Network, mistakes: Sequence[Mistake], rounds: int) -> Iterator[Refusal]:
    """Makes the mistakes on a network in turn. A right file that several have in common is checked once."""
    rights: dict[object, Checked] = {}
    for mistake in mistakes:
        key = (*mistake.righted, bool(mistake.labels))
        if key not in rights:
            rights[key] = _median(mistake.write_right, network, rounds)
        yield Refusal(network.name, mistake.name, _median(mistake.write, network, rounds), rights[key])


def _median(write: Callable[[Network, Path], Path], network: Network, rounds: int) -> Checked:
    """The medians of what checking a file costs, each time in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / network.name / "1"
        directory.mkdir(parents=True)
        path = write(network, directory)
        done = [_apart(path) for _ in range(rounds)]
    peaks = [each.peak for each in done if each.peak is not None]
    seconds = statistics.median(each.seconds for each in done)
    return replace(done[0], seconds=seconds, peak=statistics.median(peaks) if peaks else None)


def _apart(path: Path) -> Checked:
    context = get_context("forkserver")
    context.set_forkserver_preload(["bench.files.checked", "bench.files.mistakes"])
    with ProcessPoolExecutor(1, context, ready) as pool:
        return pool.submit(checked, path).result()


def print_refusals(done: list[Refusal]) -> None:
    """A table of the costs, and below it the sentences."""
    print(table(HEAD, [_row(each) for each in done]) + "\n")
    for each in done:
        print(f"{each.mistake}: {each.wrong.told or 'NOT REFUSED'}")
        if each.right.told:
            print(f"{each.mistake}: THE RIGHT ONE IS REFUSED: {each.right.told}")
    print(flush=True)


def _row(each: Refusal) -> tuple[str, ...]:
    memory = "-" if each.memory is None else f"{each.memory:.2f}"
    seconds = f"{each.wrong.seconds:.2f}", f"{each.right.seconds:.2f}", f"{each.seconds:.2f}"
    return (each.mistake, *seconds, _megabytes(each.wrong), _megabytes(each.right), memory)


def _megabytes(each: Checked) -> str:
    return "-" if each.peak is None else f"{each.peak:.0f}"


def goals(done: list[Refusal]) -> Iterator[Goal]:
    """Each mistake is refused, the right check is not, and no refusal costs much more than that."""
    refused = sum(bool(each.wrong.told) for each in done)
    yield Goal("mistakes that are refused", refused, len(done), True, "d")
    yield Goal("right files that are refused", sum(bool(each.right.told) for each in done), 0, False, "d")
    for network in dict.fromkeys(each.network for each in done):
        of = [each for each in done if each.network == network]
        memory = [each.memory for each in of if each.memory is not None]
        for what, shares in (("seconds", [each.seconds for each in of]), ("memory", memory)):
            if shares:
                yield Goal(f"{network}: {what} of a mistake / right, median", statistics.median(shares), MOST, False)
                yield Goal(f"{network}: {what} of a mistake / right, worst", max(shares), MOST, False)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.refusals", description="What a refusal costs.")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="a network; may be given again")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is checked")
    return parser.parse_args()


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    given = options()
    done: list[Refusal] = []
    with report("Refusals: what mistakes cost beside the right file and card"):
        for name in given.only or NETWORKS:
            mistakes = [mistake for mistake in MISTAKES if name in mistake.on]
            of: list[Refusal] = []
            with progress(len(mistakes)) as tell:
                for each in refusals(NETWORKS[name], mistakes, given.rounds):
                    of.append(each)
                    tell("  ".join((name, *_row(each))))
            print(f"{name}\n")
            print_refusals(of)
            done += of
    told = list(goals(done))
    print_goals(told)
    return int(not all(goal.met for goal in told))


if __name__ == "__main__":
    quiet()
    sys.exit(main())
