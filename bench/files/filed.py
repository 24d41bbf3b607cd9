"""Lifts one file in a process of its own: `python -m bench.files.filed FILE GIGABYTES [HEIGHT WIDTH]`.

The card is the one beside the file, of images of that height and width if they are given. What came of it is written as
a line of JSON. The process gets no more than so much memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common.figures import SMALL, cause, distance, resident, risen
from bench.common.quiet import quiet
from lightwell_server.catalog import catalog
from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.errors import LightwellError, last_line
from lightwell_server.importing.given import Given
from lightwell_server.models import card as cards
from lightwell_server.models import check
from lightwell_server.models.answer import answer
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.files import opened
from lightwell_server.models.lifting.lift import Sample, lift
from lightwell_server.models.lifting.outputs import leaves
from lightwell_server.models.store import Model, load_file

ROWS = 2
"""The batch compared at: torch's own gradient of a batch norm in eval mode is wrong for some layouts of a single
row."""
METHOD = "grad_cam"
"""The method whose default layer is told."""

Function = Callable[[Sequence[Tensor]], Any]


@dataclass(frozen=True)
class Found:
    """What came of one file. `reason` tells why it was refused, or why it cannot be compared; `layer` is the default of
    Grad-CAM, empty if there is none. `output` and `gradient` are the largest differences from the file's own, as shares
    of the largest magnitude, computed in `dtype`, None where the file gives none; the peak is in MB."""

    lifted: bool = False
    reason: str = ""
    layer: str = ""
    activation: str = ""
    output: float | None = None
    gradient: float | None = None
    dtype: str = ""
    seconds: float = 0.0
    peak: float | None = None
    notes: Sequence[str] = ()


def found(path: Path, size: tuple[int, int] | None) -> Found:
    """Loads a file as a server would, and compares the graph with the file."""
    before, began = resident(), time.perf_counter()
    try:
        model = _loaded(path, Given(size=size))
    except LightwellError as error:
        return Found(reason=error.message, seconds=time.perf_counter() - began, peak=risen(before))
    seconds, peak = time.perf_counter() - began, risen(before)
    reason = catalog()[METHOD].applies(model.facts)
    told = Found(
        lifted=True,
        layer="" if reason else catalog()[METHOD].defaults(model.facts)["layer"],
        activation=model.facts.activation,
        seconds=seconds,
        peak=peak,
        notes=(*model.graph.notes, *([f"no {METHOD}: {reason}"] if reason else [])),
    )
    try:
        return _compared(told, path, *_as_returned(path, model))
    except (LightwellError, RuntimeError) as error:
        return replace(told, output=float("inf"), reason=f"it cannot be compared: {cause(error)}")


def _loaded(path: Path, given: Given) -> Model:
    directory = path.resolve().parent
    repository = directory.parent.parent  # of <name>/<version>, where a card's files may lie
    written, labels = cards.read(directory, repository)
    model = load_file(path, given.onto(written), labels, path.stem, directory.name)
    check.verify(model.graph, model.card, directory, repository)
    return model


def _as_returned(path: Path, model: Model) -> tuple[Graph, Sample]:
    """The graph whose output is what the file returns, and what it was recorded on: another one where scores are read
    before an activation."""
    sample = model.card.sample(len(model.labels))
    if model.graph.activation is None or not sample.before_activation:
        return model.graph, sample
    plain = replace(sample, before_activation=False)
    return lift(path, plain), plain


def _compared(told: Found, path: Path, graph: Graph, sample: Sample) -> Found:
    """Output and gradient in double precision, or in the file's own type where it does not run in double; of small
    images where it takes any, for that is slow."""
    tries = [(sample.size, torch.float64), (sample.size, graph.weights)]
    if graph.any_size:
        tries.insert(0, (SMALL, torch.float64))
    for size, dtype in tries:
        values = sample.rows(ROWS, size, seed=9, dtype=dtype)
        try:
            output, gradient, without = _theirs(_own(path, sample, dtype), graph, values, sample)
        except RuntimeError:
            if (size, dtype) == tries[-1]:
                raise
            continue
        break
    others = {name: value[0] for name, value in zip(graph.inputs, values[1:], strict=True)}
    first = 0 if graph.single is None else 1  # of a yes and a no the file gives the yes
    ask = Ask(values[0], score=lambda given, _: _weighted(given[:, first:]), want=OUT | GRAD)
    (ours,) = answer(graph.to("cpu", dtype), [Part(ask, 0, ROWS, others)])
    return replace(
        told,
        output=distance(_flat(ours.out[:, first:]), output),
        gradient=None if gradient is None else distance(ours.grad, gradient),
        dtype=str(dtype).removeprefix("torch."),
        reason=without,
    )


def _theirs(run: Function, graph: Graph, values: Sequence[Tensor], sample: Sample) -> tuple[Tensor, Tensor | None, str]:
    """The file's own output [n, k] for rows, and its gradient for the pixels, or why there is none. Where rows
    share no step, the file gets each alone, in as many copies as it takes."""
    pixels = values[0].clone().requires_grad_()
    others = [value[:1] for value in values[1:]]

    def given(rows: Tensor) -> Tensor:
        repeated = (value.expand(len(rows), *value.shape[1:]).clone() for value in others)
        outputs = run([sample.normalise(rows, graph.weights), *repeated])
        output = _flat(dict(leaves(outputs))[graph.path])
        low, high = sample.range
        return output if sample.kind == "classifier" else (output - low) / (high - low)

    with torch.enable_grad(), torch.jit.optimized_execution(False):
        if graph.fixed is None and not graph.row_by_row:
            output = given(pixels)
        else:
            copies = graph.fixed or 1
            output = torch.cat([given(row[None].expand(copies, *row.shape))[:1] for row in pixels])
        try:
            return output.detach(), torch.autograd.grad(_weighted(output).sum(), pixels)[0], ""
        except RuntimeError as error:  # a file that writes in place may be one that cannot be differentiated
            return output.detach(), None, f"the file itself gives no gradient: {last_line(error)}"


def _flat(output: Tensor) -> Tensor:
    """Values [n, k], whatever shape they had; of a single row even none."""
    return output.reshape(len(output) if output.dim() else 1, -1)


def _weighted(output: Tensor) -> Tensor:
    """The score [n] that is differentiated: all values of a row, each with a random weight of its own."""
    values = _flat(output)
    rng = torch.Generator().manual_seed(0)
    return values @ (torch.rand(values.shape[1], generator=rng, dtype=values.dtype) - 0.5)


def _own(path: Path, sample: Sample, dtype: torch.dtype) -> Function:
    """The file's own function, computing in that type."""
    file = opened(path)
    file.given = sample.arguments
    file.to(dtype)
    return file.run


def main() -> None:
    """Writes what came of the file that the command line names."""
    path, gigabytes, *sides = sys.argv[1:]
    most = int(float(gigabytes) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    quiet()
    height_width = (int(sides[0]), int(sides[1])) if sides else None
    print(json.dumps(asdict(found(Path(path), height_width))))


if __name__ == "__main__":
    main()
