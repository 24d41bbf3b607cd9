"""Lifts a model file into a `Graph`, and proves that the graph is the model.

TorchScript archives (traced or scripted) and `torch.export` programs are recorded on one sample. Then graph and file
are compared on random input at two batch sizes, a row alone is compared with the same row in a crowd, and another
image size is tried. What does not agree is refused.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from lightwell_server.ask import OUTPUT
from lightwell_server.errors import LightwellError, Refused
from lightwell_server.models import exported, torchscript
from lightwell_server.models.cut import BATCH, Where
from lightwell_server.models.graph import Graph
from lightwell_server.models.recorder import Box, Recorder, aten

TOLERANCE = 1e-4
"""How far graph and file may differ, as a share of the output's largest magnitude."""

# Scores are read before these.
_ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    aten.softmax.int: lambda scores: scores.softmax(1),
    aten._softmax.default: lambda scores: scores.softmax(1),
    aten.log_softmax.int: lambda scores: scores.log_softmax(1),
    aten._log_softmax.default: lambda scores: scores.log_softmax(1),
}

Original = Callable[..., Any]


@dataclass(frozen=True)
class InputSpec:
    """Another input of a model: its shape without the batch and its element type."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Sample:
    """What a model is recorded and proved on: the image's size, its normalisation, and its other inputs."""

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    pre_softmax: bool = True

    def rows(self, count: int, size: tuple[int, int] | None = None, seed: int = 0) -> list[Tensor]:
        """Random inputs: images in [0, 1], then the other inputs."""
        rng = torch.Generator().manual_seed(seed)
        image = torch.rand((count, len(self.mean), *(size or self.size)), generator=rng)
        return [image, *(_random((count, *spec.shape), spec.dtype, rng) for spec in self.inputs.values())]

    def normalise(self, image: Tensor) -> Tensor:
        """Pixels in [0, 1] as the file takes them."""
        mean, std = (torch.tensor(v, dtype=image.dtype).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (image - mean) / std


def _random(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.rand(shape, generator=rng, dtype=dtype)
    return torch.randint(0, 2, shape, generator=rng).to(dtype)


def lift(path: Path, sample: Sample) -> Graph:
    """Reads a `.pt` or `.pt2` file as a graph, on the CPU. Raises `Refused` with one sentence that names the node and
    its source line if the file cannot be read, recorded or proved."""
    try:
        with torch.no_grad(), torch.jit._fuser.optimized_execution(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original, record = _open(path)
            return _prove(_record(record, sample), original, sample)
    except LightwellError:
        raise
    except Exception as error:  # whatever an unknown file's own code raises is the file's refusal
        raise Refused(f"{path.name} failed while it was lifted: {_last_line(error)}") from error


def _open(path: Path) -> tuple[Original, Callable[[list[Box], Recorder], Any]]:
    """The file's own function, and how it is recorded."""
    if not zipfile.is_zipfile(path):
        raise Refused(
            f"{path.name} is no TorchScript archive and no torch.export program: it is no zip file, or is truncated"
        )
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    if any(name.startswith("code/") or name == "constants.pkl" for name in names):
        module = torch.jit.load(path, map_location="cpu").eval()
        return module, lambda inputs, recorder: torchscript.record(module, inputs, recorder)
    if any(name.startswith(("models/", "serialized_exported_program")) for name in names):
        program = torch.export.load(path)
        return program.module(), lambda inputs, recorder: exported.record(program, inputs, recorder)
    raise Refused(
        f"{path.name} holds weights or a pickled module but no code; "
        "export it with torch.jit.script, torch.jit.trace or torch.export"
    )


@dataclass(frozen=True)
class Lifted:
    """A graph with what its proof must know: which of the file's tensors it gives, and what the file does to it
    afterwards."""

    graph: Graph
    index: int
    activation: Callable[[Tensor], Tensor] | None


def _record(record: Callable[[list[Box], Recorder], Any], sample: Sample) -> Lifted:
    recorder = Recorder()
    image, *others = sample.rows(BATCH)
    rows = recorder.input("rows", image)
    boxes = [recorder.input(name, value) for name, value in zip(sample.inputs, others, strict=True)]
    names = {name: cast(fx.Node, box.node).name for name, box in zip(sample.inputs, boxes, strict=True)}
    if any(sample.mean) or any(v != 1 for v in sample.std):
        mean, std = (
            recorder.constant(torch.tensor(v).view(1, -1, 1, 1), n)
            for n, v in (("mean", sample.mean), ("std", sample.std))
        )
        rows = recorder.op(aten.div.Tensor, (recorder.op(aten.sub.Tensor, (rows, mean), {}), std), {})
    index, output = _main_output(record([rows, *boxes], recorder))
    activation = _ACTIVATIONS.get(output.target) if sample.pre_softmax and output.args[1:2] in ((1,), (-1,)) else None
    scores = output.all_input_nodes[0] if activation else output
    recorder.graph.output(scores)
    return Lifted(Graph(recorder.graph, recorder.root, scores, recorder.sites, names), index, activation)


def _main_output(output: Any) -> tuple[int, fx.Node]:  # noqa: ANN401
    """The one floating tensor that the model returns, and its number among all tensors that it returns."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Box) and isinstance(leaf.value, Tensor)]
    found = [i for i, box in enumerate(tensors) if box.node is not None and box.value.is_floating_point()]
    if len(found) != 1:
        shapes = ", ".join(str(tuple(tensors[i].value.shape)) for i in found) or "none"
        raise Refused(
            f"the model returns {len(found)} floating tensors that depend on the image (shapes {shapes}); one is needed"
        )
    return found[0], cast(fx.Node, tensors[found[0]].node)


def _prove(lifted: Lifted, original: Original, sample: Sample) -> Graph:
    """Compares graph and file; notes whether rows may share a batch and whether the size is free."""
    graph = lifted.graph
    for count, seed in ((2, 1), (3, 2)):
        _compare(lifted, original, sample, sample.rows(count, seed=seed), f"at batch size {count}")
    _differentiate(graph, sample)
    crowd = sample.rows(3, seed=3)
    alone, together = (_outputs(graph, [rows[:count] for rows in crowd]) for count in (1, 3))
    graph.mixes_rows = _distance(alone, together[:1]) > TOLERANCE
    graph.any_size = _takes_any_size(lifted, original, sample)
    return graph


def _differentiate(graph: Graph, sample: Sample) -> None:
    """A gradient must reach the image: nothing can be explained through an operation that has none."""
    image, *others = sample.rows(1, seed=5)
    inputs = dict(zip(graph.inputs.values(), others, strict=True))
    (output,), leaf = graph.cut(Where((OUTPUT,))).run(image, inputs, torch.arange(1), grad=True)
    with torch.enable_grad():
        grad = (
            torch.autograd.grad(output.sum(), leaf, allow_unused=True)[0]
            if output.requires_grad and leaf is not None
            else None
        )
    if grad is None:
        raise Refused("no gradient of the output reaches the image: an operation on the way cannot be differentiated")


def _takes_any_size(lifted: Lifted, original: Original, sample: Sample) -> bool:
    height, width = sample.size
    rows = sample.rows(2, (height + 32, width + 64), seed=4)
    try:
        _compare(lifted, original, sample, rows, "at another size")
    except Exception:  # the file itself refuses other sizes, each in its own words
        return False
    return True


def _compare(lifted: Lifted, original: Original, sample: Sample, rows: list[Tensor], where: str) -> None:
    try:
        output = original(sample.normalise(rows[0]), *rows[1:])
    except Exception as error:
        raise Refused(f"the file itself fails {where}: {_last_line(error)}; export it with a dynamic batch") from error
    theirs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)][lifted.index]
    ours = _outputs(lifted.graph, rows)
    distance = _distance(lifted.activation(ours) if lifted.activation else ours, theirs)
    if not distance <= TOLERANCE:
        raise Refused(f"the lifted graph differs from the file {where}, by {distance:.1e} of the largest output")


def _outputs(graph: Graph, rows: list[Tensor]) -> Tensor:
    inputs = dict(zip(graph.inputs.values(), rows[1:], strict=True))
    (output,), _ = graph.cut(Where((OUTPUT,))).run(rows[0], inputs, torch.arange(len(rows[0])))
    return output


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
