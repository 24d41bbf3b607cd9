"""Verifies that a graph is equal to its file: equal outputs at two batch sizes and, where the file takes it, another
image size; a gradient that reaches the image; rows that do not influence each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from lightwell_server.contract import OUTPUT
from lightwell_server.errors import Refused, last_line
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.files import ModelFile
from lightwell_server.models.lifting.gradient import differentiate
from lightwell_server.models.lifting.outputs import leaves
from lightwell_server.models.lifting.sample import Sample
from lightwell_server.models.subgraph import SubgraphKey

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far graph and file may differ for each dtype, as a share of the output's largest magnitude."""


@dataclass
class Proof:
    """A graph and the file that it is compared with. `places` are the indices of the file's outputs by path. `restored`
    computes the file's main output from the graph's. `fewest` is the smallest number of rows that the file takes.
    `path` is the output that is compared. `seen` are the graph's outputs for some rows, computed one by one if rows
    influence each other."""

    graph: Graph
    file: ModelFile
    sample: Sample
    places: dict[str, int]
    restored: Callable[[Tensor], Tensor]
    fewest: int = 1
    path: str = field(init=False)
    seen: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.graph.path

    def proven(self) -> Graph:
        """The graph, with notes on what was found. Raises `Refused`."""
        self._compare(2, seed=1)
        self.seen = self._compare(3, seed=2)
        if self.graph.fixed is None:
            self.graph.mixes_rows = self._mixes(self.seen)
        differentiate(self.graph, self.sample)
        _measure(self.graph, self.sample)
        if self.sample.kind != "generator":
            self.graph.count_rows()
        self.graph.any_size = self.sample.kind != "generator" and self._takes_any_size()
        for path in list(self.graph.others):
            self._prove_other(path)
        return self.graph

    def _prove_other(self, path: str) -> None:
        """Verifies another output; removes it if that fails, because the main one may be all that is needed."""
        proof = Proof(self.graph, self.file, self.sample, self.places, _as_given, self.fewest)
        proof.path = path
        try:
            proof._compare(2, seed=1)
            crowd = proof._compare(3, seed=2)
            if self.graph.any_size:
                proof._compare(2, seed=4, size=self._another_size)
            if self.graph.fixed is None and proof._mixes(crowd) and not self.graph.mixes_rows:
                raise Differs("its rows are mixed")
        except Refused as error:
            self.graph.drop(path)
            self.graph.notes.append(f"the output {path!r} cannot be explained: {error.message}")

    def _compare(self, count: int, seed: int, size: tuple[int, int] | None = None) -> Tensor:
        """The graph's output for random rows. Raises `Differs` if it is not the file's, `Fails` if the file fails."""
        rows = self.sample.rows(count, size, seed, self.graph.dtype)
        where = f"at batch size {count}" if size is None else "at another size"
        try:
            theirs = self._theirs(rows)
        except Exception as error:
            raise Fails(f"the file itself fails {where}: {last_line(error)}") from error
        ours = self._ours(rows)
        distance = _distance(self.restored(ours), theirs)
        if not distance <= self._tolerance:
            raise Differs(f"the lifted graph differs from the file {where}, by {distance:.1e} of the largest output")
        return ours

    def _mixes(self, crowd: Tensor) -> bool:
        """Whether a row alone has another output than among others. Raises `Alone` if the file differs for one row,
        provided that it takes one."""
        rows = self.sample.rows(3, seed=2, dtype=self.graph.dtype)
        single = [[values[i : i + 1] for values in rows] for i in range(3)]
        alone = [self._ours(row) for row in single]
        try:
            theirs = self._theirs(single[0])
        except Exception:  # many exported files take at least two rows
            theirs, self.fewest = self.restored(alone[0]), 2
        if not _distance(self.restored(alone[0]), theirs) <= self._tolerance or alone[0].shape[0] != 1:
            raise Alone("the lifted graph differs from the file for one row alone")
        mixes = any(_distance(row, crowd[i : i + 1]) > self._tolerance for i, row in enumerate(alone))
        self.seen = torch.cat(alone) if mixes else crowd
        return mixes

    @property
    def _tolerance(self) -> float:
        return TOLERANCES[self.graph.dtype]

    def _theirs(self, rows: list[Tensor]) -> Tensor:
        """The file's output; a file with a fixed batch gets each row by itself, repeated."""
        if self.graph.fixed is None:
            return self._given(rows)
        copies = self.graph.fixed
        single = [[values[i : i + 1].expand(copies, *values.shape[1:]) for values in rows] for i in range(len(rows[0]))]
        given = [self._given(row) for row in single]
        if any(len(values) != copies for values in given):
            raise Differs(f"the file gives {len(given[0])} rows for {copies}")
        return torch.cat([values[:1] for values in given])

    def _given(self, rows: list[Tensor]) -> Tensor:
        """The file's output for rows in its own dtype. Inputs are copied, because the file may change them in place."""
        outputs: Any = self.file.run([self._normalised(rows[0]), *(values.clone() for values in rows[1:])])
        given: Tensor = [leaf for _, leaf in leaves(outputs)][self.places[self.path]]
        given = given[None] if given.dim() == 0 else given  # one row, squeezed
        low, high = self.sample.range
        return given if self.sample.kind == "classifier" else (given - low) / (high - low)

    def _normalised(self, rows: Tensor) -> Tensor:
        return self.sample.normalise(rows, self.file.dtype)

    def _ours(self, rows: list[Tensor]) -> Tensor:
        inputs = dict(zip(self.graph.inputs.values(), rows[1:], strict=True))
        subgraph = self.graph.subgraph(SubgraphKey((OUTPUT + self.path,)))
        step = 1 if self.graph.row_by_row else len(rows[0])
        given = []
        for start in range(0, len(rows[0]), step):
            own = {name: values[start : start + step] for name, values in inputs.items()}
            given.extend(subgraph.run(rows[0][start : start + step], own, torch.arange(step))[0])
        output = torch.cat(given)
        return output.permute(0, 2, 3, 1) if subgraph.reads[0].name in subgraph.last else output  # in the file's layout

    @property
    def _another_size(self) -> tuple[int, int]:
        height, width = self.sample.size
        return height + 32, width - 64 if width > 128 else width + 64

    def _takes_any_size(self) -> bool:
        """Whether other sizes than the card's are taken. Pins the graph if its output differs there, or rows influence
        each other."""
        size = self._another_size
        try:
            crowd = self._compare(2, seed=4, size=size)
            if self.graph.fixed is None and not self.graph.mixes_rows:
                last = [values[1:] for values in self.sample.rows(2, size, seed=4, dtype=self.graph.dtype)]
                if self.fewest == 1 and _distance(self._ours(last), crowd[1:]) > self._tolerance:
                    raise Differs("its rows are mixed at another size")
        except Differs:
            self.graph.pin()
            return False
        except Exception:  # a guard or the file refuses other sizes, with any error
            return False
        return True


class Differs(Refused):
    """Graph and file disagree."""


class Fails(Refused):
    """The file itself does not run."""


class Alone(Refused):
    """Graph and file agree for several rows, but not for one."""


def _as_given(values: Tensor) -> Tensor:
    return values


def _measure(graph: Graph, sample: Sample) -> None:
    """Notes each value's shape for one row. It shows which values have the batch as their first dimension, also if a
    layer has a dimension of the same size."""
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


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
