"""A lifted model: one graph of ATen calls whose layers have names."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from lightwell_server.contract import EMBEDDING, INPUT, OUTPUT, Activation, Grid, Layer
from lightwell_server.errors import InvalidArgument, Refused, last_line, nearest
from lightwell_server.models import cost, head, rules
from lightwell_server.models.folding import FOLDED
from lightwell_server.models.grids import NodeShape, node_shapes
from lightwell_server.models.layout import channels_last
from lightwell_server.models.nodes import BATCH, PIXELS, CallSite, ancestors, by_rows, kept_rows, of_size, size_of
from lightwell_server.models.subgraph import Subgraph, SubgraphKey

aten = torch.ops.aten

_ATTENTIONS = (aten.scaled_dot_product_attention.default, aten.softmax.int, aten._softmax.default)
# Operations that only move values, or leave them unchanged: their outputs are no layers.
# fmt: off
_MOVES = frozenset((
    "_to_copy", "alias", "arange", "chunk", "clone", "contiguous", "detach", "diagonal", "dropout", "expand",
    "expand_as", "feature_dropout", "flatten", "full_like", "getitem", "index_put", "movedim", "narrow", "new_ones",
    "new_zeros", "ones", "ones_like", "permute", "reshape", "select", "select_scatter", "slice", "slice_scatter",
    "split", "split_with_sizes", "squeeze", "swapaxes", "t", "to", "transpose", "type_as", "unbind", "unflatten",
    "unsqueeze", "view", "zeros", "zeros_like",
))
# fmt: on
_RESHAPING = (aten.reshape.default, aten.unflatten.int, aten.flatten.using_ints, aten.repeat.default)
SUBGRAPHS = 128
"""The number of subgraphs that are cached; callers choose their layers."""
SIZES = 64
"""The number of image sizes whose shapes are cached; callers choose their sizes."""


@dataclass(eq=False)
class Graph:
    """A model as a graph. Rows are RGB in [0, 1]; normalisation is part of the graph.

    - `output`: the main output; `path` is its path.
    - `single`: the one score from which `output` makes two classes, if it does.
    - `others`: the other outputs, by path.
    - `inputs`: the names of the other inputs, to those of their nodes.
    - `weights`, `dtype`: the dtype of the file's weights, and the one that the graph computes in.
    - `fixed`: the number of rows that the file takes if it takes no other. Each row then runs by itself, in one step
      with others if `vectorised`.
    - `activation`: the file's final activation.
    - `notes`: what was found while the file was read.
    - `tokens`: the grid of tokens on the card.
    - `on_lookup`: called for each `subgraph` with whether it was cached."""

    graph: fx.Graph
    root: torch.nn.Module
    output: fx.Node
    sites: list[CallSite]
    inputs: dict[str, str] = field(default_factory=dict)
    single: fx.Node | None = None
    path: str = ""
    others: dict[str, fx.Node] = field(default_factory=dict)
    weights: torch.dtype = torch.float32
    dtype: torch.dtype = torch.float32
    fixed: int | None = None
    vectorised: bool = True
    mixes_rows: bool = False
    any_size: bool = False
    activation: Activation | None = None
    notes: list[str] = field(default_factory=list)
    aliases: Mapping[str, str] = field(default_factory=dict)
    tokens: Grid | None = None
    on_lookup: Callable[[bool], object] = lambda cached: None
    _sizes: OrderedDict[tuple[int, ...], dict[fx.Node, NodeShape]] = field(default_factory=OrderedDict)
    _subgraphs: OrderedDict[SubgraphKey, Subgraph] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def row_by_row(self) -> bool:
        """Whether rows must not share a step: they influence each other, or the file takes one at a time."""
        return self.mixes_rows or not self.vectorised

    @cached_property
    def calls(self) -> dict[str, CallSite]:
        """Every call of a module that gives a tensor, and every operation outside of modules of its own, by name:
        `path`, `path@0`, `path@1` ... for a module called several times, `path.operation_0` ... for operations."""
        counts, seen = Counter(site.path for site in self.sites), Counter[str]()
        named: dict[str, CallSite] = {}
        for site in self.sites:
            name = site.path if counts[site.path] == 1 else f"{site.path}@{seen[site.path]}"
            seen[site.path] += 1
            named[name] = site
        for name, site in self._functional():
            while name in named or name in counts:
                name += "_"
            named[name] = site
        return named

    def _functional(self) -> Iterator[tuple[str, CallSite]]:
        """Operations that are not the output of a module, numbered within their module by kind."""
        outputs, seen = {site.node for site in self.sites}, Counter[str]()
        for node in self.needed:
            if not isinstance(node.target, OpOverload) or not node.meta.get("floating") or node.meta["scalar"]:
                continue
            operation = node.target._schema.name.partition("::")[2].strip("_")
            if node.meta["path"] == PIXELS or operation in _MOVES:
                continue
            path = node.meta["path"]
            name = f"{path}.{operation}" if path else operation
            number, seen[name] = seen[name], seen[name] + 1
            if node not in outputs:
                yield f"{name}_{number}", CallSite(path, operation, node, (node,), functional=True)

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Names of layers to nodes. The bare path of a module called several times is its last call; the card's
        aliases are names too."""
        named = {OUTPUT: self.output, INPUT: next(iter(self.graph.nodes))}
        named.update({OUTPUT + path: node for path, node in self.outputs.items()})
        embedding = head.embedding(self.needed)
        if embedding is not None:
            named[EMBEDDING] = embedding
        for name, site in self.calls.items():
            named[name] = named[name.partition("@")[0]] = site.node
        return {**{alias: named[name] for alias, name in self.aliases.items()}, **named}

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of computation, inner ones before outer ones."""
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        needed = set(self.needed)
        spent = {n: work for n, work in cost.costs(self.graph, self.root, self.fixed or BATCH).items() if n in needed}
        shares = cost.shares({name: site.inside for name, site in self.calls.items()}, spent)
        heads = head.heads(self.graph.nodes)
        names = sorted(self.calls, key=lambda name: (order[self.calls[name].node], -name.count(".")))
        return tuple(
            Layer(
                name=name,
                type=self.calls[name].type,
                shape=self.shape(self.calls[name].node),
                grid=self._grid(self.calls[name].node),
                head=self.calls[name].node in heads,
                functional=self.calls[name].functional,
                share=shares[name],
                aliases=tuple(alias for alias, meant in self.aliases.items() if self._last(meant) == name),
            )
            for name in names
        )

    def layers_at(self, size: tuple[int, ...]) -> tuple[Layer, ...]:
        """All layers, with their shapes and grids for images of another size. Raises InvalidArgument if the model does
        not take it."""
        nodes = {layer.name: self.calls[layer.name].node for layer in self.layers}
        return tuple(
            replace(layer, shape=self.shape(nodes[layer.name], size), grid=self._grid(nodes[layer.name], size))
            for layer in self.layers
        )

    def lay(self, tokens: Grid) -> None:
        """Gives the card's grid to the layers with that many tokens and no grid of their own. Raises `Refused` if there
        are none."""
        self.tokens = tokens
        self.__dict__.pop("layers", None)
        if not any(layer.grid is tokens for layer in self.layers):
            message = f"{tokens.rows} x {tokens.columns} tokens and {tokens.front} in front"
            counts = sorted({layer.shape[0] for layer in self.layers if len(layer.shape) == 2 and not layer.has_grid})
            others = f"those whose places are unknown have {', '.join(map(str, counts)) or 'none'}"
            raise Refused(f"the card says {message}, and no layer has {tokens.tokens}; {others}", reason="BAD_CARD")

    def name(self, aliases: Mapping[str, str]) -> None:
        """Gives layers aliases. Raises `Refused` for an alias that is taken, or that means no layer."""
        for alias, name in aliases.items():
            if not alias or alias in self.nodes:
                raise Refused(f"the card calls a layer {alias!r}, which is a name already", reason="BAD_CARD")
            if name.startswith("<") or name not in self.nodes:
                close = nearest(name, [*self.calls])
                raise Refused(f"the card names a layer {name!r}; {close}", reason="BAD_CARD")
        self.aliases = dict(aliases)
        for cached in ("nodes", "layers"):
            self.__dict__.pop(cached, None)

    def drop(self, path: str) -> None:
        """Removes one of the other outputs."""
        del self.others[path], self.nodes[OUTPUT + path]

    def count_rows(self) -> None:
        """Adds a check of the number of rows wherever a batch is reshaped."""
        rows = next(iter(self.graph.nodes))
        for node in list(self.graph.nodes):
            if node.target in _RESHAPING and by_rows(node, self.fixed):
                with self.graph.inserting_after(node):
                    counted = self.graph.call_function(kept_rows, (node, rows, *self.size))
                counted.meta.update(path=PIXELS, source="", scalar=True)
        self._subgraphs.clear()

    def pin(self) -> None:
        """Makes the graph refuse images of another size than the recorded one, with INVALID_ARGUMENT."""
        rows, behind = next(iter(self.graph.nodes)), next(n for n in self.graph.nodes if n.op != "placeholder")
        with self.graph.inserting_before(behind):
            sides = [self.graph.call_function(size_of, (rows, dim)) for dim in (2, 3)]
            for node in (*sides, self.graph.call_function(of_size, (*sides, *self.size))):
                node.meta.update(path=PIXELS, source="", scalar=True)
        height, width = self.size
        self.notes.append(
            "at another size its graph is not what the file computes, or its rows are no images any more: the model "
            f"takes images of {height} x {width} alone"
        )
        self._subgraphs.clear()

    def _last(self, name: str) -> str | None:
        """The call that a name means; the last one of a module called several times."""
        return next((call for call in reversed(self.calls) if name in (call, call.partition("@")[0])), None)

    def shape(self, node: fx.Node, size: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A value's shape without the batch, channels first, for images of the recorded size or of another. Where the
        batch is not the first dimension it is the whole shape for one row. Raises InvalidArgument if the model does not
        take the size."""
        shape = tuple(node.meta["shape"])
        if size not in (None, self.size):
            shape = self.node_shapes(size)[node].shape
        elif not by_rows(node, self.fixed):
            shape = tuple(node.meta.get("single", shape))
        if not by_rows(node, self.fixed):
            return shape
        return (shape[3], *shape[1:3]) if self.turned(node) else shape[1:]

    def _grid(self, node: fx.Node, size: tuple[int, ...] | None = None) -> Grid | None:
        """The grid of a value, as found or as on the card."""
        known, single = self.node_shapes(size).get(node), self._single(node)
        if known is None or not (single or by_rows(node, self.fixed)):
            return None
        if known.grid is not None:
            # A value that is channels last is so at all sizes.
            return known.grid if len(known.shape) + single == 3 or known.last == self.turned(node) else None
        tokens = len(known.shape) == 3 and self.tokens is not None and known.shape[1] == self.tokens.tokens
        return self.tokens if tokens and size in (None, self.size) else None

    def node_shapes(self, size: tuple[int, ...] | None = None) -> Mapping[fx.Node, NodeShape]:
        """The shapes and grids of all named values, for images of the recorded size or of another. Raises
        InvalidArgument if the model does not take it."""
        if size in (None, self.size):
            return self._recorded
        with self._lock:
            found = self._sizes.get(size)
        if found is None:
            try:
                found = self._seen(size)
            except RuntimeError as error:
                raise self.unfit(size) from error
            with self._lock:
                self._sizes[size] = found
                while len(self._sizes) > SIZES:
                    self._sizes.popitem(last=False)
        return found

    def unfit(self, size: tuple[int, ...]) -> InvalidArgument:
        """The error for a size that the model does not take."""
        sides, own = (" x ".join(map(str, one)) for one in (size, self.size))
        message = f"the model does not take images of {sides}; it was made for {own}"
        return InvalidArgument(message, reason="SIZE_NOT_SUPPORTED")

    @cached_property
    def _recorded(self) -> dict[fx.Node, NodeShape]:
        try:
            return self._seen(None)
        except RuntimeError as error:  # an operation that cannot run on positions; the model can be used all the same
            self.notes.append(f"no layer has places, for they cannot be followed: {last_line(error)}")
            return {}

    def _seen(self, size: tuple[int, ...] | None) -> dict[fx.Node, NodeShape]:
        wanted = set(self.nodes.values())
        single = {node for node in wanted if self._single(node)}
        return node_shapes(self.graph, self.root, wanted, single, self.fixed or 1, self.dtype, size)

    def _single(self, node: fx.Node) -> bool:
        """Whether a value belongs to one image and has no batch dimension, in a file that takes one row."""
        return self.fixed == 1 and not by_rows(node, self.fixed)

    def turned(self, node: fx.Node) -> bool:
        """Whether a value is channels last."""
        return len(node.meta["shape"]) == 4 and node.op != "placeholder" and node in self._turned

    @cached_property
    def _turned(self) -> set[fx.Node]:
        """The values that are channels last, according to their positions where these are known."""
        found = channels_last(self.graph)
        for node, known in self._recorded.items():
            if known.grid is not None and len(known.shape) == 4:
                (found.add if known.last else found.discard)(node)
        return found

    @cached_property
    def needed(self) -> list[fx.Node]:
        """The nodes that the output is computed from, in order."""
        found = ancestors([self.output])
        return [node for node in self.graph.nodes if node in found]

    def evaluate(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:  # noqa: ANN401
        """A node's value, computed from those of its sources."""
        if node.op == "get_attr":
            return getattr(self.root, str(node.target))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        operation: Any = node.target
        return operation(*args, **kwargs)

    @property
    def outputs(self) -> dict[str, fx.Node]:
        """All outputs that can be explained, by path."""
        return {self.path: self.output, **self.others}

    @property
    def has_relu(self) -> bool:
        """Whether there is a ReLU whose backward rule can be replaced."""
        return any(rules.is_relu(node) for node in ancestors(self.outputs.values()))

    @property
    def pooled(self) -> str | None:
        """The layer whose mean over all positions is the scores, or the input of the linear layer that gives them."""
        node = head.pooled(self.single or self.output)
        return next((layer.name for layer in reversed(self.layers) if self.nodes[layer.name] is node), None)

    @property
    def attended(self) -> str | None:
        """The last normalisation before the last attention, if there is one."""
        nodes = list(self.graph.nodes)
        attentions = [i for i, node in enumerate(nodes) if node.target in _ATTENTIONS and node is not self.output]
        before = set(nodes[: attentions[-1]]) if attentions else set()
        norms = [la for la in self.layers if la.has_grid and "norm" in la.type.lower()]
        names = [la.name for la in norms if self.nodes[la.name] in before]
        return names[-1] if names else None

    def node(self, name: str) -> fx.Node:
        """The node of a layer. Raises InvalidArgument with the nearest names if there is none."""
        if name not in self.nodes:
            raise InvalidArgument(
                f"the model has no layer {name!r}; {nearest(name, list(self.nodes))}", reason="UNKNOWN_LAYER"
            )
        return self.nodes[name]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Graph:
        """Moves the constants to a device, and floating ones to a dtype. Devices and dtypes in the graph's calls
        follow."""
        old, place = self.dtype, torch.device(device)
        for name in [name for name, _ in self.root.named_buffers() if name.startswith(FOLDED)]:
            delattr(self.root, name)  # made again, in the new dtype's precision
        self.root.to(device=place, dtype=dtype)
        for name, constant in self.root.named_buffers():
            if constant.dim() == 4:
                setattr(self.root, name, constant.contiguous(memory_format=torch.channels_last))

        def follow(value: Any) -> Any:  # noqa: ANN401
            if isinstance(value, torch.device):
                return place
            if not isinstance(value, torch.dtype) or not value.is_floating_point:
                return value
            # What the model computes in a wider dtype stays wider, unless `dtype` is as wide.
            return dtype if value is old or torch.promote_types(value, dtype) is dtype else value

        for node in self.graph.nodes:
            node.args, node.kwargs = (
                fx.node.map_aggregate(node.args, follow),
                fx.node.map_aggregate(node.kwargs, follow),
            )
        self.dtype = dtype
        self._subgraphs.clear()
        return self

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width in pixels that it was recorded at."""
        return tuple(next(iter(self.graph.nodes)).meta["shape"][2:])

    @property
    def device(self) -> torch.device:
        """The device of the constants."""
        return next((b.device for b in self.root.buffers()), torch.device("cpu"))

    def subgraph(self, key: SubgraphKey) -> Subgraph:
        """The part of the graph that answers a kind of Ask. It is made once and cached. Safe from any thread."""
        with self._lock:
            self.on_lookup(key in self._subgraphs)
            if key not in self._subgraphs:
                self._subgraphs[key] = Subgraph(self.graph, self.root, key, self.node, self.fixed, self.turned)
                if len(self._subgraphs) > SUBGRAPHS:
                    self._subgraphs.popitem(last=False)
            self._subgraphs.move_to_end(key)
            return self._subgraphs[key]
