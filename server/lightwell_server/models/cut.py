"""Cuts a graph to what one kind of Ask needs.

Nothing behind the layers read is computed; what lies before `wrt` runs without autograd; sizes are computed anew
behind an expansion; a convolution is folded with its batch norm wherever nothing else reads what flows between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lightwell_server.ask import INPUT, Edit, Rule
from lightwell_server.errors import InvalidArgument
from lightwell_server.models import folding, rules
from lightwell_server.models.nodes import ancestors, by_rows, guard


@dataclass(frozen=True)
class Where:
    """What tells cuts apart: the layers read, the layer differentiated for, ReLU's rule, and the layer edited."""

    at: tuple[str, ...]
    wrt: str = INPUT
    rule: Rule = "plain"
    edit: str | None = None


@dataclass(frozen=True)
class Stage:
    """A part of a cut. `takes` and `gives` are the names of values; `bound` is the boundary that it ends at."""

    module: fx.GraphModule
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    bound: str | None


class Cut:
    """The stages between the rows and the layers read, with boundaries at the edited layer and at `wrt`."""

    def __init__(
        self,
        graph: fx.Graph,
        root: torch.nn.Module,
        where: Where,
        find: Callable[[str], fx.Node],
        fixed: int | None = None,
    ) -> None:
        self.fixed = fixed
        self.by_rows = {node.name: by_rows(node, fixed) for node in graph.nodes}
        self.reads = [find(name) for name in where.at]
        self.wrt = find(where.wrt)
        self.edited = find(where.edit) if where.edit is not None else None
        self.rows = next(iter(graph.nodes))
        needed = ancestors(self.reads)
        self.influential = self.wrt in needed
        if self.edited is not None and self.edited not in needed:
            raise InvalidArgument(
                f"layer {where.edit!r} does not influence {', '.join(where.at)}", reason="NO_INFLUENCE"
            )
        bounds = [node for node in graph.nodes if node in (self.wrt, self.edited) and node in needed]
        self.wrt_before_edit = self.edited not in (None, self.wrt) and self.wrt in ancestors([self.edited or self.wrt])
        writer = _Writer(graph, root, where.rule, needed, {*bounds, *self.reads})
        self.stages = writer.stages(bounds, self.reads)
        crossing = writer.live.get(self.edited, set()) if self.edited is not None else set()
        self.crossing = {node.name for node in crossing}
        # Windows, or tokens in front of the rows: one row's part of them cannot be told from another's.
        looked_at = {*self.reads, self.wrt, self.edited or self.wrt}
        self.alone = fixed is None and not all(self.by_rows[node.name] for node in looked_at)
        self.expands = fixed is not None or all(self.by_rows[node.name] for node in crossing)

    def run(
        self,
        rows: Tensor,
        inputs: dict[str, Tensor],
        index: Tensor,
        edit: Edit | None = None,
        grad: bool = False,
        act: bool = False,
    ) -> tuple[list[Tensor], Tensor | None]:
        """Returns the values read and the activation at `wrt` (None if nothing read depends on it), which requires
        gradients if `grad` is set. `index` numbers the rows within their Ask."""
        values = {self.rows.name: rows, **inputs}
        expanding = edit is not None and edit.count is not None
        late = self.expands and not (self.wrt_before_edit and (grad or act))
        if expanding and not late:
            values = _expanded(values, len(index))
        leaf: Tensor | None = None
        for stage in self.stages:
            with torch.set_grad_enabled(grad and leaf is not None):
                values.update(zip(stage.gives, self._given(stage, [values[name] for name in stage.takes]), strict=True))
                if edit is not None and self.edited is not None and stage.bound == self.edited.name:
                    if expanding and late:
                        values = _expanded({name: values[name] for name in self.crossing}, len(index))
                    values[stage.bound] = self._edited(edit, values[stage.bound], index)
            if stage.bound == self.wrt.name:
                leaf = values[stage.bound] = values[stage.bound].detach().requires_grad_(grad)
        return [self._rows(values[node.name], node) for node in self.reads], leaf

    def _rows(self, value: Tensor, node: fx.Node | None) -> Tensor:
        """A value with the rows in front; what has them nowhere is all of one row."""
        return value if self.fixed is not None or node is None or self.by_rows[node.name] else value[None]

    def apart(self, value: Tensor) -> Tensor:
        """An activation or gradient at `wrt` with the rows in front."""
        return self._rows(value, self.wrt)

    def _edited(self, edit: Edit, value: Tensor, index: Tensor) -> Tensor:
        rows = self._rows(value, self.edited)
        edited = edit.function(rows, index)
        return edited if rows is value else edited[0]

    def _given(self, stage: Stage, taken: list[Tensor]) -> Sequence[Tensor]:
        """What a stage makes of values. A file with a fixed batch sees each row by itself, in as many copies as it
        takes; its values have the rows in front of whatever they are for one."""
        if self.fixed is None or not taken:
            given: tuple[Tensor, ...] = stage.module(*taken)
            return given

        def one(*row: Tensor) -> tuple[Tensor, ...]:
            full = [
                value.expand(self.fixed or 1, *value.shape) if self.by_rows[name] else value
                for name, value in zip(stage.takes, row, strict=True)
            ]
            given = zip(stage.gives, stage.module(*full), strict=True)
            return tuple(value[0] if self.by_rows[name] else value for name, value in given)

        if len(taken[0]) == 1:
            return [value[None] for value in one(*(value[0] for value in taken))]
        together: tuple[Tensor, ...] = torch.vmap(one)(*taken)
        return together


class _Writer:
    """Writes the stages of a cut as graph modules."""

    def __init__(
        self, graph: fx.Graph, root: torch.nn.Module, rule: Rule, needed: set[fx.Node], keep: set[fx.Node]
    ) -> None:
        self.graph, self.root, self.rule, self.keep = graph, root, rule, keep
        guards = _passed(graph, needed)
        self.needed = ancestors([*needed, *guards])
        self.live: dict[fx.Node, set[fx.Node]] = {}

    def stages(self, bounds: list[fx.Node], reads: list[fx.Node]) -> list[Stage]:
        """One stage up to each boundary, and one to the end."""
        computed = {node for node in self.needed if node.op == "placeholder"}
        guards = {node for node in self.needed if node.target is guard}
        parts = []
        for wanted in (*([bound] for bound in bounds), self.needed):
            part = {node for node in ancestors(wanted) - computed if not _light(node)}
            computed |= part
            # A guard stands as soon as what it looks at is there.
            checked = {node for node in guards if _sources(node) <= computed}
            guards -= checked
            parts.append(part | checked)
        stages, later = [], set(reads)
        for part, bound in zip(reversed(parts), [None, *reversed(bounds)], strict=True):
            if bound is not None:
                self.live[bound] = later | {bound}
            gives = [node for node in self.graph.nodes if node in part and (node in later or node is bound)]
            body, takes = self._body(part)
            stages.append(self._stage(body, takes, gives, bound))
            later = (later | set(takes)) - part
        return stages[::-1]

    def _body(self, part: set[fx.Node]) -> tuple[set[fx.Node], list[fx.Node]]:
        """A part with the constants and sizes that it uses, and the values that it takes from before."""
        body, takes = set(part), set()
        waiting = [source for node in body for source in node.all_input_nodes]
        while waiting:
            node = waiting.pop()
            if node in body:
                continue
            if _light(node):
                body.add(node)
                waiting.extend(node.all_input_nodes)
            else:
                takes.add(node)
        return body, [node for node in self.graph.nodes if node in takes]

    def _stage(self, body: set[fx.Node], takes: list[fx.Node], gives: list[fx.Node], bound: fx.Node | None) -> Stage:
        graph, constants = fx.Graph(), {}
        copies = {node: graph.placeholder(node.name) for node in takes}
        folded = {node: conv for node in body if (conv := self._before(node, body)) is not None}
        for node in self.graph.nodes:
            if node not in body or node in folded.values():
                continue
            if node.op == "get_attr":
                constants[node.target] = getattr(self.root, node.target)
            if node in folded:
                copies[node] = folding.fold(graph, self.root, node, folded[node], copies, constants)
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
            if folding.in_eval(node) and node not in folded:
                copies[node].target, copies[node].args = folding.scaled, (*copies[node].args[:5], node.args[7])
            if self.rule != "plain" and rules.is_relu(node):
                copies[node].args = (self.rule, node.target, *copies[node].args)
                copies[node].target = rules.exchanged
        graph.output(tuple(copies[node] for node in gives))
        taken, given = (tuple(node.name for node in nodes) for nodes in (takes, gives))
        return Stage(fx.GraphModule(constants, graph), taken, given, bound.name if bound is not None else None)

    def _before(self, norm: fx.Node, body: set[fx.Node]) -> fx.Node | None:
        """The convolution that may be folded with a batch norm: of this stage, and read by nothing else."""
        conv = folding.convolution(norm)
        if conv is None or conv not in body or conv in self.keep or self.needed.intersection(conv.users) != {norm}:
            return None
        return conv


def _passed(graph: fx.Graph, needed: set[fx.Node]) -> set[fx.Node]:
    """The branches that were taken before the last of these nodes was computed."""
    guards: set[fx.Node] = set()
    since: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target is guard:
            since.add(node)
        elif node in needed:
            guards |= since
            since = set()
    return guards


def _light(node: fx.Node) -> bool:
    """Constants and sizes: they belong to every stage that uses them."""
    return node.op == "get_attr" or bool(node.meta.get("scalar"))


def _sources(node: fx.Node) -> set[fx.Node]:
    """The tensors whose sizes a size is computed from."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            (waiting.append if _light(source) else found.add)(source)
    return found


def _expanded(values: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in values.items()}
