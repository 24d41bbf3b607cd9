"""Writes one network as one file, lifts it, and measures what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.common.figures import SMALL, cause, distance, resident, risen
from bench.common.nets import CLASS, Original, export, first
from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.errors import LightwellError, Refused, last_line
from lightwell_server.models.answer import answer
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.lift import Sample, lift

ROWS = 4
"""The batch compared at; files are exported with 2 rows, graphs recorded with 5 and proved with 2 and 3."""
BAKED = 1e-3
"""The difference from the network, as a share of the largest score, that tells a trace that has its size built in."""
PASSIVE = ("Dropout", "Dropout2d", "StochasticDepth", "DropPath", "Identity")
"""Layers that compute nothing at inference."""


@dataclass(frozen=True)
class Lifting:
    """What came of one file. Differences are shares of the largest magnitude, infinite where only the file gives an
    answer, None where there is nothing to compare: `single` and `elsewhere` in float32 from the file itself, at its
    own and at another size; `double` and `gradient` in float64 from the eager network. Without `single` it was refused,
    for `reason`. `found` of `layers` can be asked for; the peak is in MB."""

    family: str
    network: str
    form: str
    layers: int
    reason: str = ""
    single: float | None = None
    elsewhere: float | None = None
    double: float | None = None
    gradient: float | None = None
    coarse: bool = False
    found: int | None = None
    seconds: float | None = None
    peak: float | None = None
    peer: str = ""

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.network}_{self.form}.{'pt2' if self.form == 'pt2' else 'pt'}"


def lifted(original: Original, layers: list[str], form: str, path: Path) -> Lifting:
    """Writes, lifts and measures one file. `layers` are those of the network that compute something."""
    facts: dict[str, Any] = {"family": original.family, "network": original.name, "form": form, "layers": len(layers)}
    try:
        export(original.copied(), form, path, original.sample, original.free)
    except Exception as error:  # an exporter refuses networks in its own words
        return Lifting(**facts, reason=f"it cannot be exported: {last_line(error)}")
    before, began = resident(), time.perf_counter()
    try:
        graph = lift(path, original.sample)
    except Refused as error:
        return Lifting(**facts, reason=error.message, seconds=time.perf_counter() - began)
    facts["seconds"], facts["peak"] = time.perf_counter() - began, risen(before)
    facts["coarse"] = any("single precision is coarse" in note for note in graph.notes)
    facts["found"] = None if form == "frozen" else sum(name in graph.nodes for name in layers)
    return Lifting(**facts, **_differences(original, graph, form, path))


def _differences(original: Original, graph: Graph, form: str, path: Path) -> dict[str, Any]:
    """`single`, `elsewhere`, `double` and `gradient`, or the reason why there are no doubles."""
    file, sample = _function(path), original.sample
    height, width = sample.size
    found: dict[str, Any] = {
        "single": _compared(graph, file, sample, sample.size),
        "elsewhere": _compared(graph, file, sample, (height - 32, width - 64)),
    }
    size = SMALL if graph.any_size and _takes(file, original, SMALL) else sample.size
    try:
        found["double"], found["gradient"] = _doubles(original, graph, form, path, size)
    except (LightwellError, RuntimeError) as error:
        found |= {"double": float("inf"), "reason": f"in float64 it fails: {cause(error)}"}
    return found


def computing(net: nn.Module, rows: Tensor) -> list[str]:
    """The names of a network's layers that compute a tensor that depends on the image."""
    fired: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, given: Any, output: Any) -> None:  # noqa: ANN401
            if isinstance(output, Tensor) and output.requires_grad:
                fired.append(name)

        return note

    net.requires_grad_(False)
    for name, module in net.named_modules():
        if name and not _passive(module):
            module.register_forward_hook(noting(name))
    net(rows.requires_grad_())
    return list(dict.fromkeys(fired))


def _passive(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return all(_passive(child) for child in module)
    return type(module).__name__ in PASSIVE


def _function(path: Path) -> Callable[[Tensor], Tensor]:
    """What the file itself computes: from rows as it takes them to scores."""
    module: Any = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)

    def run(rows: Tensor) -> Tensor:
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return first(module(rows))

    return run


def _compared(graph: Graph, file: Callable[[Tensor], Tensor], sample: Sample, size: tuple[int, int]) -> float | None:
    """How far the graph's scores are from the file's at that size; None if the file does not take it."""
    (pixels,) = sample.rows(ROWS, size, seed=7)
    try:
        expected = file(sample.normalise(pixels))
    except Exception:  # a file refuses a size in its own words
        return None
    try:
        (answered,) = answer(graph, [Part(Ask(pixels, want=OUT), 0, ROWS)])
    except LightwellError:
        return float("inf")
    return distance(answered.out, expected)


def _takes(file: Callable[[Tensor], Tensor], original: Original, size: tuple[int, int]) -> bool:
    """Whether the file is the network at that size, too: a trace may have its own size built in."""
    rows = original.sample.normalise(original.sample.rows(2, size, seed=8)[0])
    try:
        with torch.no_grad():
            return distance(file(rows), first(original.copied()(rows))) <= BAKED
    except Exception:  # a file or a network refuses a size in its own words
        return False


def _doubles(original: Original, graph: Graph, form: str, path: Path, size: tuple[int, int]) -> tuple[float, float]:
    """How far scores and gradient are from the network's in float64. Where lifting or freezing computes weights in the
    file's precision, the file is made and lifted anew from the network in float64."""
    constants = torch.float32
    if form == "frozen" or original.computes:
        constants = torch.float64
        anew = path.with_stem(f"{path.stem}_float64")
        export(original.copied(constants), form, anew, original.sample, original.free)
        graph = lift(anew, replace(original.sample, size=size))
        anew.unlink()
    expected = original.double(size, constants)
    ask = Ask(original.pixels(size), score=lambda scores, _: scores[:, CLASS], want=OUT | GRAD)
    (given,) = answer(graph.to("cpu", torch.float64), [Part(ask, 0, ask.count)])
    return distance(given.out, expected[0]), distance(given.grad, expected[1])
