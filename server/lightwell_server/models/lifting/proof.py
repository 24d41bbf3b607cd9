"""Proves that a graph is the model of a file: the same outputs at two batch sizes and, where the file takes one,
another image size; a gradient that reaches the image; rows that do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lightwell_server.ask import INPUT, OUTPUT
from lightwell_server.errors import Refused
from lightwell_server.models.cut import Where
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.files import ModelFile
from lightwell_server.models.lifting.outputs import leaves
from lightwell_server.models.lifting.sample import Sample

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far graph and file may differ in each type of numbers, as a share of the output's largest magnitude."""


@dataclass
class Proof:
    """A graph and what it is compared with: an output of the file, by its number, and the activation that the file
    applies to it where the graph does not. `fewest` is the smallest number of rows that the file takes."""

    graph: Graph
    file: ModelFile
    sample: Sample
    index: int
    activation: Callable[[Tensor], Tensor] | None
    fewest: int = 1

    def proven(self) -> Graph:
        """The graph, with notes on what was found. Raises `Refused`."""
        self._compare(2, seed=1)
        crowd = self._compare(3, seed=2)
        if self.graph.fixed is None:
            self.graph.mixes_rows = self._mixes(crowd)
        _differentiate(self.graph, self.sample)
        _measure(self.graph, self.sample)
        self.graph.any_size = self.sample.kind != "generator" and self._takes_any_size()
        return self.graph

    def _compare(self, count: int, seed: int, size: tuple[int, int] | None = None) -> Tensor:
        """What the graph gives for random rows, which is what the file gives. Raises `Differs`."""
        rows = self.sample.rows(count, size, seed, self.graph.dtype)
        where = f"at batch size {count}" if size is None else "at another size"
        try:
            theirs = self._theirs(rows)
        except Exception as error:
            raise Fails(f"the file itself fails {where}: {last_line(error)}") from error
        ours = self._ours(rows)
        distance = _distance(self._applied(ours), theirs)
        if not distance <= self._tolerance:
            raise Differs(f"the lifted graph differs from the file {where}, by {distance:.1e} of the largest output")
        return ours

    def _mixes(self, crowd: Tensor) -> bool:
        """Whether a row alone gives something else than among others. Alone it must be what the file gives, if that
        takes one row."""
        rows = self.sample.rows(3, seed=2, dtype=self.graph.dtype)
        single = [[values[i : i + 1] for values in rows] for i in range(3)]
        alone = [self._ours(row) for row in single]
        try:
            theirs = self._theirs(single[0])
        except Exception:  # many exported files take two rows or more
            theirs, self.fewest = self._applied(alone[0]), 2
        if not _distance(self._applied(alone[0]), theirs) <= self._tolerance or alone[0].shape[0] != 1:
            raise Alone("the lifted graph differs from the file for one row alone")
        return any(_distance(row, crowd[i : i + 1]) > self._tolerance for i, row in enumerate(alone))

    def _applied(self, ours: Tensor) -> Tensor:
        return self.activation(ours) if self.activation else ours

    @property
    def _tolerance(self) -> float:
        return TOLERANCES[self.graph.dtype]

    def _theirs(self, rows: list[Tensor]) -> Tensor:
        """What the file gives; a file with a fixed batch gets every row in copies of its own."""
        if self.graph.fixed is None:
            return self._given(rows)
        copies = self.graph.fixed
        single = [[values[i : i + 1].expand(copies, *values.shape[1:]) for values in rows] for i in range(len(rows[0]))]
        return torch.cat([self._given(row)[:1] for row in single])

    def _given(self, rows: list[Tensor]) -> Tensor:
        """The file's output for rows in its own type; copies, for it may change its inputs in place."""
        outputs: Any = self.file.run([self._normalised(rows[0]), *(values.clone() for values in rows[1:])])
        given: Tensor = [leaf for _, leaf in leaves(outputs)][self.index]
        low, high = self.sample.range
        return given if self.sample.kind == "classifier" else (given - low) / (high - low)

    def _normalised(self, rows: Tensor) -> Tensor:
        return self.sample.normalise(rows, self.file.dtype)

    def _ours(self, rows: list[Tensor]) -> Tensor:
        inputs = dict(zip(self.graph.inputs.values(), rows[1:], strict=True))
        if not self.graph.row_by_row:
            (output,), _ = self.graph.cut(Where((OUTPUT,))).run(rows[0], inputs, torch.arange(len(rows[0])))
            return output
        single = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(len(rows[0]))]
        cut = self.graph.cut(Where((OUTPUT,)))
        return torch.cat([cut.run(rows[0][i : i + 1], own, torch.arange(1))[0][0] for i, own in enumerate(single)])

    def _takes_any_size(self) -> bool:
        """Whether other sizes than the card's are taken; pins a graph that gives something else for them."""
        height, width = self.sample.size
        try:
            self._compare(self.fewest, seed=4, size=(height + 32, width + 64))
        except Differs:
            self.graph.pin()
            return False
        except Exception:  # the file itself refuses other sizes, each in its own words
            return False
        return True


class Differs(Refused):
    """Graph and file disagree."""


class Fails(Refused):
    """The file itself does not run."""


class Alone(Refused):
    """They agree for several rows, and not for one."""


def _measure(graph: Graph, sample: Sample) -> None:
    """Notes the shape that each value has for one row: it tells which values have the batch as their first dimension,
    whatever sizes a layer has of its own."""
    if graph.fixed is not None:
        return
    rows, *others = sample.rows(1, seed=5, dtype=graph.dtype)
    given = dict(zip(graph.inputs.values(), others, strict=True))
    values: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            values[node] = given.get(node.name, rows)
        else:
            values[node] = graph.evaluate(node, values)
        if isinstance(values[node], Tensor):
            node.meta["single"] = tuple(values[node].shape)


def _differentiate(graph: Graph, sample: Sample) -> None:
    """A gradient must reach the image: nothing can be explained through an operation that has none."""
    rows, *others = sample.rows(1, seed=5, dtype=graph.dtype)
    inputs = dict(zip(graph.inputs.values(), others, strict=True))
    try:
        (output,), leaf = graph.cut(Where((OUTPUT,))).run(rows, inputs, torch.arange(1), grad=True)
        with torch.enable_grad():
            reaches = output.requires_grad and leaf is not None
            grad = (
                torch.autograd.grad(output.sum(), leaf, allow_unused=True)[0] if reaches and leaf is not None else None
            )
    except (RuntimeError, NotImplementedError) as error:
        raise Refused(_without_gradient(graph, rows, inputs, last_line(error))) from error
    if grad is None:
        raise Refused(_without_gradient(graph, rows, inputs, ""))


def _without_gradient(graph: Graph, rows: Tensor, inputs: dict[str, Tensor], told: str) -> str:
    """The sentence that names the first operation behind which no gradient comes back."""
    node = _blocking(graph, rows, inputs)
    reason = f" ({told})" if told else ""
    if node is None:
        return f"no gradient of the output reaches the image{reason}; nothing can be explained"
    place = node.meta.get("path") or "the model"
    where = f"{place} ({node.meta['source']})" if node.meta.get("source") else place
    return (
        f"no gradient of the output reaches the image: {node.target} in {where} has none{reason}; replace it by an "
        "operation that can be differentiated, or export the model with gradients enabled"
    )


def _blocking(graph: Graph, rows: Tensor, inputs: dict[str, Tensor]) -> fx.Node | None:
    """The last operation that takes a value with a gradient and gives one without; before all others one whose gradient
    is not implemented."""
    copies = graph.fixed or 1
    first = graph.nodes[INPUT]
    values: dict[fx.Node, Any] = {
        node: inputs[node.name].expand(copies, *inputs[node.name].shape[1:])
        for node in graph.needed
        if node.name in inputs
    }
    values[first] = rows.expand(copies, *rows.shape[1:]).clone().requires_grad_()
    lost, unimplemented = [], []
    with torch.enable_grad():
        for node in graph.needed:
            if node in values:
                continue
            value = values[node] = graph.evaluate(node, values)
            sources = [values[source] for source in node.all_input_nodes]
            if not isinstance(value, Tensor) or not any(isinstance(v, Tensor) and v.requires_grad for v in sources):
                continue
            if not value.requires_grad:
                lost.append(node)
            elif not _comes_back(value):
                unimplemented.append(node)
    blocking = lost + unimplemented
    return blocking[-1] if blocking else None


def _comes_back(value: Tensor) -> bool:
    """Whether the operation that made a value can be differentiated."""
    backward: Any = value.grad_fn
    try:
        if backward is not None:
            backward(torch.ones_like(value))
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def last_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
