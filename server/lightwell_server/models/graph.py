"""A lifted model: one graph of ATen calls whose layers have names."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx

from lightwell_server.ask import INPUT, OUTPUT, Layer
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.models import rules
from lightwell_server.models.cut import Cut, Where
from lightwell_server.models.folding import FOLDED
from lightwell_server.models.recorder import Site

_ATTENTIONS = (
    torch.ops.aten.scaled_dot_product_attention.default,
    torch.ops.aten.softmax.int,
    torch.ops.aten._softmax.default,
)
CUTS = 128
"""Cuts that are kept; callers choose their layers."""


@dataclass(eq=False)
class Graph:
    """A model as a graph. Rows are RGB in [0, 1]; normalisation is part of it. `inputs` are the names of its other
    inputs, and of their nodes."""

    graph: fx.Graph
    root: torch.nn.Module
    output: fx.Node
    sites: list[Site]
    inputs: dict[str, str] = field(default_factory=dict)
    mixes_rows: bool = False
    any_size: bool = False
    _cuts: OrderedDict[Where, Cut] = field(default_factory=OrderedDict)

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Names of layers to nodes. A module called several times is `path@0`, `path@1` ...; its bare path is the
        last call."""
        calls: dict[str, list[fx.Node]] = {}
        for site in self.sites:
            calls.setdefault(site.path, []).append(site.node)
        named = {OUTPUT: self.output, INPUT: next(iter(self.graph.nodes))}
        for path, nodes in calls.items():
            named[path] = nodes[-1]
            if len(nodes) > 1:
                named.update({f"{path}@{i}": node for i, node in enumerate(nodes)})
        return named

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of computation, inner before outer."""
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        types = {site.path: site.type for site in self.sites}
        names = [name for name in self.nodes if name not in (OUTPUT, INPUT)]
        repeated = {name.partition("@")[0] for name in names if "@" in name}
        shown = sorted((n for n in names if n not in repeated), key=lambda n: (order[self.nodes[n]], -n.count(".")))
        return tuple(Layer(n, types[n.partition("@")[0]], tuple(self.nodes[n].meta["shape"][1:])) for n in shown)

    @property
    def has_relu(self) -> bool:
        """Whether there is a ReLU whose backward a rule could exchange."""
        return any(rules.is_relu(node) for node in self.graph.nodes)

    @property
    def attended(self) -> str | None:
        """The last normalisation before the last attention, if there is one."""
        nodes = list(self.graph.nodes)
        attentions = [i for i, node in enumerate(nodes) if node.target in _ATTENTIONS and node is not self.output]
        before = set(nodes[: attentions[-1]]) if attentions else set()
        names = [la.name for la in self.layers if "Norm" in la.type and self.nodes[la.name] in before]
        return names[-1] if names else None

    def node(self, name: str) -> fx.Node:
        """The node of a layer; INVALID_ARGUMENT with the nearest names if there is none."""
        if name not in self.nodes:
            raise InvalidArgument(
                f"the model has no layer {name!r}; {nearest(name, list(self.nodes))}", reason="UNKNOWN_LAYER"
            )
        return self.nodes[name]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Graph:
        """Moves the constants; floating ones take the type. Devices and types that the model names itself follow."""
        old, place = self.dtype, torch.device(device)
        for name in [name for name, _ in self.root.named_buffers() if name.startswith(FOLDED)]:
            delattr(self.root, name)  # made anew, in the new type's precision
        self.root.to(device=place, dtype=dtype)
        for name, constant in self.root.named_buffers():
            if constant.dim() == 4:
                setattr(self.root, name, constant.contiguous(memory_format=torch.channels_last))

        def follow(value: Any) -> Any:  # noqa: ANN401
            return place if isinstance(value, torch.device) else dtype if value is old else value

        for node in self.graph.nodes:
            node.args, node.kwargs = (
                fx.node.map_aggregate(node.args, follow),
                fx.node.map_aggregate(node.kwargs, follow),
            )
        self._cuts.clear()
        return self

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width that it was recorded at."""
        return tuple(next(iter(self.graph.nodes)).meta["shape"][2:])

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers computed with."""
        return next((b.dtype for b in self.root.buffers() if b.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the constants are."""
        return next((b.device for b in self.root.buffers()), torch.device("cpu"))

    def cut(self, where: Where) -> Cut:
        """The part of the graph that answers a kind of Ask; made once."""
        if where not in self._cuts:
            self._cuts[where] = Cut(self.graph, self.root, where, self.node)
            if len(self._cuts) > CUTS:
                self._cuts.popitem(last=False)
        self._cuts.move_to_end(where)
        return self._cuts[where]
