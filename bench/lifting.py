"""What lifting keeps of a model: `python -m bench.lifting`.

Networks of torchvision are written as files (traced, scripted, and as `.pt2` with a dynamic batch) and lifted at 224.
Of each file the table shows how far the lifted graph's scores lie from the eager network's, in float32, at a batch
that neither the file nor the graph was recorded at, as a share of the largest score; how many of the network's
layers the graph can be asked for, of those that compute something; whether it takes other image sizes; and how long
lifting took, its proof included. (The `.pt2` files are exported for one image size.) With `--peer` the converter that
ships in torch is given the same TorchScript files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench._nets import FORMS, SAMPLE, export, network
from bench._table import Goal, print_goals, report, table
from lightwell_server.ask import OUT, Ask, Part
from lightwell_server.errors import Refused
from lightwell_server.models.answer import answer
from lightwell_server.models.graph import Graph
from lightwell_server.models.lift import lift

NAMES = "alexnet,vgg16,resnet18,resnet50,densenet121,mobilenet_v2,efficientnet_b0,squeezenet1_1,convnext_tiny,vit_b_16"
ROWS = 3
"""The batch compared at; files are exported with 2 rows, and graphs recorded with 5."""
ROUNDING = 1e-5
"""The largest difference that passes as rounding, as a share of the largest score."""
PASSIVE = ("Dropout", "Dropout2d", "StochasticDepth", "Identity")
"""Layers that compute nothing at inference."""


@dataclass(frozen=True)
class Lifting:
    """What came of one file; without a difference it was refused, for `reason`."""

    file: str
    difference: float | None
    found: int
    layers: int
    any_size: bool
    seconds: float
    megabytes: float
    peer: str
    reason: str = ""

    @property
    def faithful(self) -> bool:
        """Whether the graph gives the network's scores."""
        return self.difference is not None and self.difference <= ROUNDING

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        difference = "refused" if self.difference is None else f"{self.difference:.1e}"
        size = "yes" if self.any_size else "no"
        figures = f"{self.found}/{self.layers}", size, f"{self.seconds:.2f}", f"{self.megabytes:.0f}", self.peer
        return self.file, difference, *figures


def computing(net: nn.Module, rows: Tensor) -> tuple[Tensor, list[str]]:
    """The network's output, and the names of its layers that give a tensor and compute something."""
    fired: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, output: fired.append(name) if isinstance(output, Tensor) else None

    named = [(name, module) for name, module in net.named_modules() if name and type(module).__name__ not in PASSIVE]
    hooks = [module.register_forward_hook(noting(name)) for name, module in named]
    with torch.no_grad():
        output = net(rows)
    for hook in hooks:
        hook.remove()
    return output, list(dict.fromkeys(fired))


def lifted(path: Path, net: nn.Module, peer: bool) -> Lifting:
    """Lifts one file and compares it with the network that it was made of."""
    (pixels,) = SAMPLE.rows(ROWS, seed=7)
    expected, layers = computing(net, SAMPLE.normalise(pixels))
    megabytes = path.stat().st_size / 2**20
    other = converted(path, net) if peer and path.suffix == ".pt" else ""
    began = time.perf_counter()
    try:
        graph = lift(path, SAMPLE)
    except Refused as error:
        seconds = time.perf_counter() - began
        return Lifting(path.name, None, 0, len(layers), False, seconds, megabytes, other, error.message)
    seconds = time.perf_counter() - began
    difference = _difference(_scores(graph.to("cpu", torch.float32), pixels), expected)
    found = sum(name in graph.nodes for name in layers)
    return Lifting(path.name, difference, found, len(layers), graph.any_size, seconds, megabytes, other)


def _scores(graph: Graph, pixels: Tensor) -> Tensor:
    (answered,) = answer(graph, [Part(Ask(pixels, want=OUT), 0, len(pixels))])
    scores: Tensor = answered.out
    return scores


def _difference(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).abs().max() / expected.abs().max())


def converted(path: Path, net: nn.Module) -> str:
    """What the converter in torch makes of a TorchScript file: ok at any batch, ok at its sample's alone, or not."""
    from torch._export.converter import TS2EPConverter

    two, three = (SAMPLE.normalise(SAMPLE.rows(count, seed=7)[0]) for count in (2, ROWS))
    try:
        program = TS2EPConverter(torch.jit.load(path), (two,)).convert().module()
        if not _agrees(program, net, two):
            return "differs"
    except Exception as error:  # a peer may fail as it likes
        return f"fails: {type(error).__name__}"
    try:
        return "ok" if _agrees(program, net, three) else "differs"
    except Exception:
        return "ok at one batch"


def _agrees(program: Callable[[Tensor], Tensor], net: nn.Module, rows: Tensor) -> bool:
    with torch.no_grad():
        return _difference(program(rows), net(rows)) <= ROUNDING


def liftings(names: list[str], folder: Path, keep: bool, peer: bool) -> Iterator[Lifting]:
    """Makes, lifts and deletes the files in their turn."""
    for name in names:
        net = network(name)
        for form in FORMS:
            path = export(net, form, folder / f"{name}_{form}.{'pt2' if form == 'pt2' else 'pt'}")
            yield lifted(path, net, peer)
            if not keep:
                path.unlink()


def goals(done: list[Lifting]) -> list[Goal]:
    """Every file lifts faithfully, and no layer is lost."""
    faithful = sum(each.faithful for each in done)
    found, layers = sum(each.found for each in done), sum(each.layers for each in done)
    return [
        Goal(f"files that lift, within {ROUNDING:.0e} of the network", faithful, len(done), True, ".0f"),
        Goal("layers that can be asked for", found, layers, True, ".0f"),
    ]


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.lifting", description="What lifting keeps of a model.")
    parser.add_argument("--only", default=NAMES, help="networks of torchvision, separated by commas")
    parser.add_argument("--keep", type=Path, help="a folder that the files are written to and kept in")
    parser.add_argument("--peer", action="store_true", help="ask the converter in torch, too (slow)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with report("Lifting: files of torchvision's networks as graphs, at 224"), tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        done = list(liftings(options.only.split(","), place, options.keep is not None, options.peer))
        head = ("file", f"difference at {ROWS} rows", "layers", "any size", "seconds", "MB", "torch's converter")
        shown = len(head) if options.peer else len(head) - 1
        print(table(head[:shown], [each.row()[:shown] for each in done]))
        for each in done:
            if each.reason:
                print(f"{each.file} was refused: {each.reason}")
    found = goals(done)
    print_goals(found)
    return int(not all(goal.met for goal in found))


if __name__ == "__main__":
    sys.exit(main())
