"""What lifting keeps of a model: `python -m bench.lifting`.

Networks of torchvision (traced, scripted, frozen and as `.pt2`) and of timm (traced and as `.pt2`), and small ones that
each show an idiom of scripts (scripted and frozen), with random weights, are written as files, lifted, measured and
deleted in turn. The columns:

- float32: how far the lifted graph's scores lie from the file's own, at a batch that neither was recorded at, as a
  share of the largest score; other size: the same at another height and width, "-" where the file takes no other;
- float64 and gradient: how far scores, and the gradient of one class's score for the pixels, lie from the eager
  network's in double precision, as shares of their maxima;
- layers: how many can be asked for, of those of the eager network that compute something of the image; a frozen file
  has none;
- seconds, and the megabytes by which memory rose at its peak, that lifting took, its proof included.

`--family`, `--forms` and `--only` choose among them; `--jobs 2` lifts two networks at a time, which suits timm's many
on two cores. With `--peer` the converter that ships in torch is given the TorchScript files, too.

`--files DIR` tries files that are there, each in a process of its own and by the card beside it, if there is one:
whether they lift or why not, how far output and gradient lie in float64 from the file's own, the default layer of
Grad-CAM, the activation, and what was found while they were read. `--against REV` tells how long lifting takes beside
another commit.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.common.against import compared, print_seconds
from bench.common.against import goal as seconds_goal
from bench.common.nets import FAMILIES, FORMS, original
from bench.common.quiet import quiet
from bench.common.table import Goal, print_goals, progress, report, table
from bench.files.converter import ROUNDING, converted
from bench.files.folder import goals as files_goals
from bench.files.folder import print_files, tried
from bench.files.lifting import Lifting, computing, lifted

HEAD = ("file", "float32", "other size", "float64", "gradient", "layers", "seconds", "MB", "torch's converter")
DOUBLE, GRADIENT = 1e-10, 1e-8
"""The largest differences in double precision of torchvision's networks."""
WRONG, ASTRAY = 1e-6, 1e-4
"""The differences in double precision of scores and of gradients from which on a graph is not the network. They leave
room for networks that amplify rounding."""
SHARES = {"timm": 0.9, "scripts": 1.0}
"""The shares of files that shall lift."""
SECONDS = {"resnet50": 5.0, "maxvit_t": 30.0}
"""The longest that lifting may take."""


def liftings(name: str, forms: list[str], folder: Path, keep: bool, peer: bool) -> Iterator[Lifting]:
    """Makes, lifts and deletes the files of one network in their turn."""
    network = original(name)
    layers = computing(network.copied(), network.sample.example(2)[0])
    for form in forms:
        path = folder / f"{name}_{form}.{'pt2' if form == 'pt2' else 'pt'}"
        each = lifted(network, layers, form, path)
        yield replace(each, peer=converted(path, network)) if peer and form != "pt2" else each
        if not keep:
            path.unlink(missing_ok=True)
    gc.collect()


def _listed(name: str, forms: list[str], folder: Path, keep: bool, peer: bool) -> list[Lifting]:
    return list(liftings(name, forms, folder, keep, peer))


def _worker(threads: int) -> None:
    """A process beside others: they share the cores."""
    torch.set_num_threads(threads)
    quiet()


def all_liftings(names: list[str], jobs: int, *how: Any) -> Iterator[Lifting]:  # noqa: ANN401 - as `liftings` takes it
    """The liftings of several networks in their order, of so many networks at a time."""
    if jobs == 1:
        for name in names:
            yield from liftings(name, *how)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _worker, (threads,)) as pool:
        for done in pool.map(_listed, names, *map(repeat, how)):
            yield from done


def row(each: Lifting) -> tuple[str, ...]:
    """A file's line of the table."""
    star = "*" if each.coarse else ""
    single = "refused" if each.single is None else _shown(each.single, ".1e") + star
    elsewhere = _shown(each.elsewhere, ".1e") + (star if each.elsewhere is not None else "")
    layers = "-" if each.found is None else f"{each.found}/{each.layers}"
    figures = _shown(each.double, ".1e"), _shown(each.gradient, ".1e"), layers
    return each.file, single, elsewhere, *figures, _shown(each.seconds, ".2f"), _shown(each.peak, ".0f"), each.peer


def _shown(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" if math.isfinite(value) else "fails"


def print_table(family: str, done: list[Lifting], peer: bool) -> None:
    """The files of a family, and below them what there is to say of some."""
    shown = len(HEAD) if peer else len(HEAD) - 1
    print(f"{family}\n\n" + table(HEAD[:shown], [row(each)[:shown] for each in done]))
    if any(each.coarse for each in done):
        print("* These weights amplify rounding: figures in float32 mean nothing here, those in float64 do.")
    for each in done:
        if each.reason:
            print(f"{each.file}: {each.reason}")
    print(flush=True)


def torchvision_goals(done: list[Lifting]) -> Iterator[Goal]:
    """Every file lifts, is the network, loses no layer, and takes little time."""
    elsewhere = [each.elsewhere for each in done if each.elsewhere is not None]
    yield _count(f"files within {ROUNDING:.0e} of their own output", [each.single for each in done], ROUNDING)
    if elsewhere:
        yield _count(f"files within {ROUNDING:.0e} at another size", elsewhere, ROUNDING)
    yield _count(f"files within {DOUBLE:.0e} of the network in float64", [each.double for each in done], DOUBLE)
    yield _count(f"gradients within {GRADIENT:.0e} in float64", [each.gradient for each in done], GRADIENT)
    named = [each for each in done if each.form != "frozen"]
    if named:
        found, layers = sum(each.found or 0 for each in named), sum(each.layers for each in named)
        yield Goal("layers that can be asked for", found, layers, True, ".0f")
    for name, most in SECONDS.items():
        taken = [each.seconds for each in done if each.network == name and each.seconds is not None]
        if taken:
            yield Goal(f"seconds to lift {name}", max(taken), most, False, ".2f")


def _count(name: str, differences: Sequence[float | None], most: float) -> Goal:
    within = sum(value is not None and value <= most for value in differences)
    return Goal(name, within, len(differences), True, ".0f")


def other_goals(done: list[Lifting]) -> Iterator[Goal]:
    """Of a family that is not torchvision's most files lift, and none to another function than its network."""
    family = done[0].family
    for form in dict.fromkeys(each.form for each in done):
        made = [each for each in done if each.form == form]
        lifts = sum(each.single is not None for each in made)
        least = math.ceil(SHARES[family] * len(made))
        yield Goal(f"networks of {family} that lift, of {len(made)} {form}", lifts, least, True, ".0f")
    doubtful = [each for each in done if each.single is not None and not _right(each)]
    yield Goal(f"files of {family} that lift, and that float64 does not confirm", len(doubtful), 0, False, ".0f")


def _right(each: Lifting) -> bool:
    bounds = (each.double, WRONG), (each.gradient, ASTRAY)
    return all(value is not None and value <= most for value, most in bounds)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.lifting", description="What lifting keeps of a model.")
    parser.add_argument("--only", help="networks, separated by commas")
    parser.add_argument("--forms", default="traced,scripted,frozen,pt2", help="forms of files, separated by commas")
    parser.add_argument("--family", choices=FAMILIES, help="one family of networks; all if it is not given")
    parser.add_argument(
        "--jobs", type=int, default=1, help="networks at a time; seconds are then those of shared cores"
    )
    parser.add_argument("--keep", type=Path, help="a folder that the files are written to and kept in")
    parser.add_argument("--peer", action="store_true", help="ask the converter in torch, too (slow)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--files", type=Path, metavar="DIR", help="a folder whose model files are tried instead")
    other.add_argument("--against", metavar="REV", help="a commit whose seconds are compared instead")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the images of --files")
    given = parser.parse_args()
    unknown = set(given.only.split(",") if given.only else ()) - set(chain(*FAMILIES.values()))
    unknown |= set(given.forms.split(",")) - set(FORMS["torchvision"])
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if given.files and not given.files.is_dir():
        parser.error(f"{given.files} is no folder")
    return given


def plan(given: argparse.Namespace) -> dict[str, tuple[list[str], list[str]]]:
    """The networks and the forms of each family that are asked for."""
    only, wanted = given.only.split(",") if given.only else None, given.forms.split(",")
    parts = {
        family: (
            [name for name in names if only is None or name in only],
            [form for form in FORMS[family] if form in wanted],
        )
        for family, names in FAMILIES.items()
        if given.family in (None, family)
    }
    return {family: (names, forms) for family, (names, forms) in parts.items() if names and forms}


def networks(given: argparse.Namespace) -> list[Goal]:
    """Lifts the networks that are asked for, and prints a table for each family."""
    goals: list[Goal] = []
    with report("Lifting: files of networks as graphs"), tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for family, (names, forms) in plan(given).items():
            done = []
            with progress(len(names) * len(forms)) as tell:
                for each in all_liftings(names, given.jobs, forms, place, given.keep is not None, given.peer):
                    done.append(each)
                    tell("  ".join(row(each)).rstrip())
            print_table(family, done, given.peer)
            goals.extend((torchvision_goals if family == "torchvision" else other_goals)(done))
    return goals


def files(folder: Path, size: tuple[int, int] | None) -> list[Goal]:
    """Tries the files of a folder."""
    with report(f"Lifting: the files of {folder}"):
        done = tried(folder, size)
        print_files(done)
    return list(files_goals(done))


def beside(revision: str) -> list[Goal]:
    """Compares the seconds of lifting with another commit's."""
    with report(f"Lifting: processor seconds beside those of {revision}, medians"):
        seconds = compared(revision)
        print_seconds(seconds)
    return [seconds_goal(seconds)]


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    given = options()
    if given.files:
        goals = files(given.files, given.size)
    elif given.against:
        try:
            goals = beside(given.against)
        except ValueError as error:
            sys.exit(str(error))
    else:
        goals = networks(given)
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    quiet()
    sys.exit(main())
