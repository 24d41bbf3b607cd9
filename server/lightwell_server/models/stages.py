"""The parts of a subgraph, each a graph module: one up to each boundary, and one to the end.

Sizes and constants are computed again in every part that uses them. A convolution is folded with its batch norm where
nothing else reads the value between them. ReLU's backward rule is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from lightwell_server.contract import Rule
from lightwell_server.models import folding, rules
from lightwell_server.models.nodes import GUARDS, ancestors


@dataclass(frozen=True)
class Stage:
    """A part of a subgraph. `takes` and `gives` are the names of its input and output values; `bound` is its
    boundary."""

    module: fx.GraphModule
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    bound: str | None


class Writer:
    """Writes the stages of a subgraph as graph modules. `live` are the values that are used after each boundary."""

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
        guards = {node for node in self.needed if node.target in GUARDS}
        parts = []
        for wanted in (*([bound] for bound in bounds), self.needed):
            part = {node for node in ancestors(wanted) - computed if not _light(node)}
            computed |= part
            # A guard belongs to the first stage where its inputs are computed.
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
        """A part with the constants and sizes that it uses, and the values that it takes from earlier parts."""
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
        """The convolution to fold with a batch norm: it is in this stage, and nothing else reads it."""
        conv = folding.convolution(norm)
        if conv is None or conv not in body or conv in self.keep or self.needed.intersection(conv.users) != {norm}:
            return None
        return conv


def _passed(graph: fx.Graph, needed: set[fx.Node]) -> set[fx.Node]:
    """The guards before the last of these nodes."""
    guards: set[fx.Node] = set()
    since: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target in GUARDS:
            since.add(node)
        elif node in needed:
            guards |= since
            since = set()
    return guards


def _light(node: fx.Node) -> bool:
    """Whether a node is a constant or a size: these belong to every stage that uses them."""
    return node.op == "get_attr" or bool(node.meta.get("scalar"))


def _sources(node: fx.Node) -> set[fx.Node]:
    """The tensors from whose sizes a size is computed."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            (waiting.append if _light(source) else found.add)(source)
    return found
