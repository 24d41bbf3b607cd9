"""Lifts a model file into a `Graph`: opens it, records it on a sample, and verifies that the graph is equal to the
model.

A file that takes any number of rows is recorded with several. One that takes a fixed number is recorded with that, and
each row then runs by itself: in one vectorised step where this is verified, else row by row.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from lightwell_server.errors import InvalidArgument, LightwellError, Refused, last_line, nearest
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting import fitting
from lightwell_server.models.lifting.draft import drafted
from lightwell_server.models.lifting.endings import are_shares, squashed
from lightwell_server.models.lifting.files import ModelFile, opened
from lightwell_server.models.lifting.pixels import shaped
from lightwell_server.models.lifting.proof import Alone, Differs, Fails, Proof
from lightwell_server.models.lifting.quiet import quiet
from lightwell_server.models.lifting.recorder import Endless, Misfit
from lightwell_server.models.lifting.sample import InputSpec, Sample

log = logging.getLogger(__name__)

__all__ = ["InputSpec", "Sample", "lift"]

PROBABILITIES = "the model returns probabilities, and what it makes them of cannot be told: they are the scores"


def lift(path: Path, sample: Sample, dtype: torch.dtype = torch.float32) -> Graph:
    """Reads a `.pt` or `.pt2` file as a graph on the CPU, in the file's own dtype. If `dtype` is float64 and the file
    runs in it, the graph is in float64, so that what is computed while the file is read is as precise as the rest.
    Raises `Refused` with one sentence that names the node and its source line if the file cannot be read, recorded or
    verified."""
    try:
        with quiet(), torch.no_grad(), torch.jit._fuser.optimized_execution(False):
            graph = _widened(path, sample) if dtype is torch.float64 else None
            return graph or _read(path, sample, None)
    except InvalidArgument as error:  # from a guard of the graph, whose message is for callers
        raise Refused(error.message) from error
    except LightwellError:
        raise
    except MemoryError as error:
        raise Refused(f"{path.name} needs more memory than there is to be lifted") from error
    except Exception as error:  # an unknown file may raise anything
        raise Refused(f"{path.name} failed while it was lifted: {last_line(error)}") from error


def _widened(path: Path, sample: Sample) -> Graph | None:
    """The graph in float64; None if the file does not run in it, or is refused."""
    try:
        return _read(path, sample, torch.float64)
    except (Refused, RuntimeError) as error:
        log.info("%s is read in its own type of numbers, for in double precision it fails: %s", path.name, error)
        return None


def _read(path: Path, sample: Sample, dtype: torch.dtype | None) -> Graph:
    file = opened(path)
    file.dtype = dtype or file.dtype
    file = shaped(file, sample)
    _expects(file, sample)
    if file.dtype is not file.stored:
        file.to(file.dtype)
    return _lifted(file, sample)


def _lifted(file: ModelFile, sample: Sample) -> Graph:
    """The graph. If the card's size or channels are not the file's, the error says which are."""
    try:
        _tried(file, sample)
        return _any_batch(file, sample) or _fixed_batch(file, sample)
    except Misfit as error:
        raise Refused(fitting.explained(file, sample, error.message)) from error


def _tried(file: ModelFile, sample: Sample) -> None:
    """Runs the file as the card says on few rows, so that a file that does not fit is refused before the more expensive
    recording. Raises `Refused`."""
    if file.unbounded or (file.shape is not None and file.shape[0] is not None):  # it declares its rows and size
        return
    reason = fitting.failure(file, sample, file.counts[0])
    if reason is None or (not fitting.whatever_rows(file, sample, reason) and fitting.takes(file, sample)):
        return
    if setting := fitting.mended(file, sample, reason):
        raise Refused(f"the file fails as the card has it ({reason}); {setting}")
    try:
        drafted(file, sample, file.counts[0])
    except Misfit as error:  # its message names the operation
        raise Refused(fitting.instead(file, sample, error.message)) from error


def _expects(file: ModelFile, sample: Sample) -> None:
    """Raises `Refused` unless the file takes the inputs that the card describes."""
    needed = 1 + len(sample.inputs)
    if not file.arguments:
        raise Refused("the model takes no input, so there is no image to explain; export its forward with the image")
    for name in sample.arguments:
        if name not in file.arguments[needed:]:
            raise Refused(
                f"the card sets an argument {name!r}, which the model has not; {nearest(name, file.arguments[needed:])}"
            )
    without = [name for name in file.arguments[needed:] if name not in {*file.optional, *sample.arguments}]
    if len(file.arguments) < needed or without:
        others = ", ".join(file.arguments[1:]) or "none"
        raise Refused(
            f"the model takes {len(file.arguments)} inputs and the card describes {needed}; name those behind the "
            f"image under [inputs] in the card, in this order: {others}; values that are no tensors under [arguments]"
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
    """The graph for any number of rows; None if the file takes a fixed number, or computes something else for a single
    row."""
    if file.shape is not None and file.shape[0] is not None:
        return None
    try:
        return _proven(file, sample, None)
    except Endless:
        raise
    except (InvalidArgument, Alone):  # the result depends on the number of rows, and a request means one
        return None
    except Refused:
        if fitting.fixed_rows(file, sample) is None:
            raise
        return None


def _fixed_batch(file: ModelFile, sample: Sample) -> Graph:
    """The graph for a file with a fixed number of rows."""
    declared = file.shape[0] if file.shape is not None else None
    fixed = declared or next((count for count in file.counts if fitting.runs(file, sample, count)), 1)
    made = f"the file takes {fixed} row{'s' if fixed > 1 else ''} at a time"
    try:
        graph = _proven(file, sample, fixed)
        graph.notes.append(f"{made}; rows are made to share steps")
    except (Refused, RuntimeError):
        graph = _proven(file, sample, fixed, vectorised=False)
        graph.notes.append(f"{made}, and rows cannot share steps: it is run row by row")
    return graph


def _proven(file: ModelFile, sample: Sample, fixed: int | None, vectorised: bool = True) -> Graph:
    """Records and verifies. Half precision is verified in float32 if the file runs in it. If float32 is too coarse
    (random weights can be chaotic), the graph is verified in float64."""
    draft = drafted(file, sample, fixed)
    graph = draft.graph
    graph.vectorised = vectorised
    proof = Proof(graph, file, sample, draft.places, draft.restored)
    half = file.dtype in (torch.float16, torch.bfloat16)
    try:
        _prove_in(torch.float32 if half else file.dtype, proof)
    except Differs as error:
        if file.dtype is torch.float64:
            raise
        _prove_closer(proof, error)
        graph.notes.append("single precision is coarse for these weights: the file was compared in double precision")
    except Fails:
        if not half:
            raise
        _prove_in(file.dtype, proof)
        graph.notes.append("the file runs in half precision alone: it was compared in that, which is coarse")
    if sample.kind == "classifier" and graph.activation is None and are_shares(proof.seen, squashed(graph.output)):
        graph.activation = "none"
        graph.notes.append(PROBABILITIES)
    if graph.mixes_rows:
        graph.notes.append("the model mixes the rows of a batch: it is run row by row")
    return graph


def _prove_closer(proof: Proof, coarse: Differs) -> None:
    """Verifies in float64 what differs in float32. Raises `coarse` if the file does not run in float64."""
    try:
        _prove_in(torch.float64, proof)
    except Fails:
        raise coarse from None


def _prove_in(dtype: torch.dtype, proof: Proof) -> None:
    """Verifies in a dtype, then restores the dtype of file and graph."""
    proof.file.to(dtype)
    proof.graph.to("cpu", dtype)
    try:
        proof.proven()
    finally:
        proof.file.to(proof.file.dtype)
        proof.graph.to("cpu", proof.file.dtype)
