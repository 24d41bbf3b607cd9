"""Lifts a model file into a `Graph`: opens it, records it on a sample, proves that the graph is the model.

A file that takes any number of rows is recorded with several. One that takes a fixed number is recorded with that, and
each row is then run by itself, in one vectorised step where that can be proved, else row by row.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from lightwell_server.errors import InvalidArgument, LightwellError, Refused, last_line
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting import outputs
from lightwell_server.models.lifting.files import ModelFile, opened
from lightwell_server.models.lifting.outputs import Final
from lightwell_server.models.lifting.proof import Alone, Differs, Fails, Proof
from lightwell_server.models.lifting.recorder import Endless, Recorder, aten
from lightwell_server.models.lifting.sample import LUMINANCE, InputSpec, Sample
from lightwell_server.models.lifting.views import Box
from lightwell_server.models.nodes import BATCH, PIXELS

__all__ = ["InputSpec", "Sample", "lift"]

FIXED = (1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 32, 64)
"""Numbers of rows that a TorchScript file may have been traced with for good; the file does not say."""


def lift(path: Path, sample: Sample) -> Graph:
    """Reads a `.pt` or `.pt2` file as a graph, on the CPU, in the file's own type of numbers. Raises `Refused` with one
    sentence that names the node and its source line if the file cannot be read, recorded or proved."""
    try:
        with torch.no_grad(), torch.jit._fuser.optimized_execution(False):
            file = opened(path)
            _expects(file, sample)
            return _any_batch(file, sample) or _fixed_batch(file, sample)
    except InvalidArgument as error:  # a guard of the graph, which speaks to callers
        raise Refused(error.message) from error
    except LightwellError:
        raise
    except MemoryError as error:
        raise Refused(f"{path.name} needs more memory than there is to be lifted") from error
    except Exception as error:  # whatever an unknown file's own code raises is the file's refusal
        raise Refused(f"{path.name} failed while it was lifted: {last_line(error)}") from error


def _expects(file: ModelFile, sample: Sample) -> None:
    """The file must take what the card says."""
    needed = 1 + len(sample.inputs)
    if not file.arguments:
        raise Refused("the model takes no input, so there is no image to explain; export its forward with the image")
    if len(file.arguments) < needed or file.required > needed:
        others = ", ".join(file.arguments[1:]) or "none"
        raise Refused(
            f"the model takes {len(file.arguments)} inputs and the card describes {needed}; name those behind the "
            f"image under [inputs] in the card, in this order: {others}"
        )
    if file.shape is None:
        return
    if sample.kind == "generator":
        if len(file.shape) != 2 or file.shape[1] not in (None, sample.code):
            raise Refused(f"the generator's codes are {_shown(file.shape)}; set input.code in the card")
        return
    wanted = (None, sample.channels, *sample.size)
    if len(file.shape) != 4:
        raise Refused(
            f"the model's first input has shape {_shown(file.shape)}, which is no image [n, 3, height, width]"
        )
    for name, has, card in zip(("", "channels", "size", "size"), file.shape, wanted, strict=True):
        if card is not None and has is not None and has != card:
            takes = f"{file.shape[1]} channels" if name == "channels" else f"{file.shape[2]} x {file.shape[3]} pixels"
            raise Refused(f"the model takes images of {takes}; set input.{name} in the card")


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if side is None else str(side) for side in shape)}]"


def _any_batch(file: ModelFile, sample: Sample) -> Graph | None:
    """The graph for any number of rows; None if the file takes a fixed one, or is another model for one."""
    if file.shape is not None and file.shape[0] is not None:
        return None
    try:
        return _proven(file, sample, None)
    except Endless:
        raise
    except (InvalidArgument, Alone):  # the number of rows makes a difference, and callers mean one
        return None
    except Refused:
        if all(_runs(file, sample, count) for count in (1, 2, 3)):
            raise
        if not any(_runs(file, sample, count) for count in FIXED):
            raise
        return None


def _fixed_batch(file: ModelFile, sample: Sample) -> Graph:
    """The graph for a file with a fixed number of rows."""
    declared = file.shape[0] if file.shape is not None else None
    fixed = declared or next((count for count in FIXED if _runs(file, sample, count)), 1)
    made = f"the file takes {fixed} row{'s' if fixed > 1 else ''} at a time"
    try:
        graph = _proven(file, sample, fixed)
        graph.notes.append(f"{made}; rows are made to share steps")
    except (Refused, RuntimeError):
        graph = _proven(file, sample, fixed, vectorised=False)
        graph.notes.append(f"{made}, and rows cannot share steps: it is run row by row")
    return graph


def _runs(file: ModelFile, sample: Sample, count: int) -> bool:
    """Whether the file itself takes that many rows, and gives as many."""
    try:
        given = [leaf for _, leaf in outputs.leaves(file.run(sample.example(count, file.dtype)))]
    except Exception:  # a file refuses a number of rows in its own words
        return False
    return any(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in given)


def _proven(file: ModelFile, sample: Sample, fixed: int | None, vectorised: bool = True) -> Graph:
    """Records and proves, half precision in single, where the file can be run in that. Where single precision is too
    coarse to tell (random weights can be chaotic), the proof is made in double precision."""
    graph, index, final = _recorded(file, sample, fixed)
    graph.vectorised = vectorised
    proof = Proof(graph, file, sample, index, final.apply if final is not None else None)
    half = file.dtype in (torch.float16, torch.bfloat16)
    try:
        _prove_in(torch.float32 if half else file.dtype, proof)
    except Differs:
        if file.dtype is torch.float64:
            raise
        _prove_in(torch.float64, proof)
        graph.notes.append("single precision is coarse for these weights: the file was compared in double precision")
    except Fails:
        if not half:
            raise
        _prove_in(file.dtype, proof)
        graph.notes.append("the file runs in half precision alone: it was compared in that, which is coarse")
    if graph.mixes_rows:
        graph.notes.append("the model mixes the rows of a batch: it is run row by row")
    return graph


def _prove_in(dtype: torch.dtype, proof: Proof) -> None:
    """Proves in a type of numbers; file and graph have their own again afterwards."""
    proof.file.to(dtype)
    proof.graph.to("cpu", dtype)
    try:
        proof.proven()
    finally:
        proof.file.to(proof.file.dtype)
        proof.graph.to("cpu", proof.file.dtype)


def _recorded(file: ModelFile, sample: Sample, fixed: int | None) -> tuple[Graph, int, Final | None]:
    """The graph, the number of the file's output that it gives, and the activation left away at its end."""
    recorder = Recorder()
    first, *others = sample.rows(fixed or BATCH, dtype=file.dtype)
    rows = recorder.input("rows", first)
    boxes = [recorder.input(name, value) for name, value in zip(sample.inputs, others, strict=True)]
    names = {name: cast(fx.Node, box.node).name for name, box in zip(sample.inputs, boxes, strict=True)}
    _limited(file, rows, recorder)
    given = list(tree_leaves(file.record([_pixels(rows, sample, recorder), *boxes], recorder)))
    paths = [path for path, _ in outputs.leaves(file.run(sample.example(fixed or 2, file.dtype)))]
    named = list(zip(paths if len(paths) == len(given) else map(str, range(len(given))), given, strict=True))
    index = outputs.chosen(named, sample.output, sample.kind)
    output = recorder.node(given[index])
    rows_given = output.meta["shape"][:1]
    if rows_given != (fixed or BATCH,):
        raise Refused(
            f"the model gives {rows_given[0] if rows_given else 'no'} rows for {fixed or BATCH}: no row is one image's"
        )
    final = outputs.final(outputs.behind(output)) if sample.kind == "classifier" else None
    left = final if sample.before_activation else None
    told = final is None and outputs.are_probabilities(given[index].value)
    if left is not None:
        output = outputs.behind(output).all_input_nodes[0]
    else:
        output = _pictured(given[index], sample, recorder)
    recorder.graph.output(output)
    graph = Graph(recorder.graph, recorder.root, output, recorder.sites, names, file.dtype, file.dtype, fixed)
    graph.activation = final.name if final is not None else "none" if told else None
    graph.notes = [*file.notes, *_notes(recorder, left)]
    if told:
        graph.notes.append(
            "the model returns probabilities, and what it makes them of cannot be told: they are the scores"
        )
    return graph, index, left


def _limited(file: ModelFile, rows: Box, recorder: Recorder) -> None:
    """Sizes that the file declares are checked for every image."""
    for dim, limit in file.limits.items():
        size = recorder.size(rows, dim)
        recorder.operation = f"the program's own limits of {'height' if dim == 2 else 'width'}"
        recorder.decide(recorder.scalar(operator.ge, size, limit.least))
        recorder.decide(recorder.scalar(operator.eq, recorder.scalar(operator.mod, size, limit.step), 0))
        if limit.most is not None:
            recorder.decide(recorder.scalar(operator.le, size, limit.most))


def _notes(recorder: Recorder, left: Final | None) -> Iterator[str]:
    if recorder.woken:
        places = ", ".join(dict.fromkeys(recorder.woken[:3]))
        yield f"{len(recorder.woken)} layers were left in training mode and are set to eval ({places})"
    if left is not None:
        yield f"the model ends in {left.name}: scores are read before it"


def _pixels(rows: Box, sample: Sample, recorder: Recorder) -> Box:
    """From RGB in [0, 1] to what the file takes."""
    if sample.kind == "generator":
        return rows
    recorder.path = PIXELS

    def constant(values: tuple[float, ...], name: str) -> Any:  # noqa: ANN401
        return recorder.constant(torch.tensor(values, dtype=rows.value.dtype).view(1, -1, 1, 1), name)

    if sample.channels == 1:
        weighted = recorder.op(aten.mul.Tensor, (rows, constant(LUMINANCE, "luminance")), {})
        rows = recorder.op(aten.sum.dim_IntList, (weighted, [1], True), {})
    if any(sample.mean) or any(value != 1 for value in sample.std):
        centred = recorder.op(aten.sub.Tensor, (rows, constant(sample.mean, "mean")), {})
        rows = recorder.op(aten.div.Tensor, (centred, constant(sample.std, "std")), {})
    recorder.path = ""
    return rows


def _pictured(output: Box, sample: Sample, recorder: Recorder) -> fx.Node:
    """An image's values in [0, 1]; anything else as it is."""
    low, high = sample.range
    if sample.kind != "classifier" and sample.range != (0.0, 1.0):
        recorder.path = PIXELS
        shifted = recorder.op(aten.sub.Scalar, (output, low), {})
        output = recorder.op(aten.div.Scalar, (shifted, high - low), {})
    node: fx.Node = recorder.node(output)
    return node
