"""Cuts a graph to what one kind of Ask needs, and runs it.

What follows the layers read is not computed. What precedes `wrt` runs without autograd. Sizes are computed again after
an expansion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lightwell_server.contract import INPUT, Ask, Edit, Rule
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.nodes import ancestors, by_rows
from lightwell_server.models.stages import Stage, Writer


@dataclass(frozen=True)
class SubgraphKey:
    """The key of a subgraph: the layers read, the layer of the gradient, the backward rule of ReLU, and the layer
    edited."""

    at: tuple[str, ...]
    wrt: str = INPUT
    rule: Rule = "plain"
    edit: str | None = None

    @classmethod
    def of(cls, ask: Ask) -> SubgraphKey:
        """The key of an Ask."""
        at = (ask.at,) if isinstance(ask.at, str) else ask.at
        return cls(at, ask.wrt, ask.rule, ask.edit.layer if ask.edit else None)


class Subgraph:
    """The stages between the rows and the layers read, with boundaries at the edited layer and at `wrt`."""

    def __init__(
        self,
        graph: fx.Graph,
        root: torch.nn.Module,
        key: SubgraphKey,
        find: Callable[[str], fx.Node],
        fixed: int | None = None,
        turned: Callable[[fx.Node], bool] = lambda _: False,
    ) -> None:
        self.fixed = fixed
        self.by_rows = {node.name: by_rows(node, fixed) for node in graph.nodes}
        self.reads = [find(name) for name in key.at]
        self.wrt = find(key.wrt)
        self.edited = find(key.edit) if key.edit is not None else None
        self.rows = next(iter(graph.nodes))
        needed = ancestors(self.reads)
        self.influential = self.wrt in needed
        if self.edited is not None and self.edited not in needed:
            raise InvalidArgument(f"layer {key.edit!r} does not influence {', '.join(key.at)}", reason="NO_INFLUENCE")
        bounds = [node for node in graph.nodes if node in (self.wrt, self.edited) and node in needed]
        self.wrt_before_edit = self.edited not in (None, self.wrt) and self.wrt in ancestors([self.edited or self.wrt])
        writer = Writer(graph, root, key.rule, needed, {*bounds, *self.reads})
        self.stages = writer.stages(bounds, self.reads)
        crossing = writer.live.get(self.edited, set()) if self.edited is not None else set()
        self.crossing = {node.name for node in crossing}
        # Windows, or tokens before the batch dimension: one row's part cannot be separated from another's.
        looked_at = {*self.reads, self.wrt, self.edited or self.wrt}
        self.last = {node.name for node in looked_at if self.by_rows[node.name] and turned(node)}
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
        """Returns the values read and the activation at `wrt` (None if no value read depends on it), which requires
        gradients if `grad` is set. `index` numbers the rows within their Ask. Raises `InvalidArgument` for a size that
        the model does not take."""
        values = {self.rows.name: rows, **inputs}
        expanding = edit is not None and edit.count is not None
        late = self.expands and not (self.wrt_before_edit and (grad or act))
        if expanding and not late:
            values = _expanded(values, len(index))
        count = 1 if expanding and late else len(index)
        leaf: Tensor | None = None
        for stage in self.stages:
            with torch.set_grad_enabled(grad and leaf is not None):
                values.update(zip(stage.gives, self._given(stage, [values[name] for name in stage.takes]), strict=True))
                if edit is not None and self.edited is not None and stage.bound == self.edited.name:
                    if expanding and late:
                        values = _expanded({name: values[name] for name in self.crossing}, len(index))
                        count = len(index)
                    self._counted(values[stage.bound], self.edited, count, rows)
                    changing = self._rows(values[stage.bound], self.edited)
                    values[stage.bound] = self._as_was(edit.function(changing, index), self.edited)
            if stage.bound == self.wrt.name:
                self._counted(values[stage.bound], self.wrt, count, rows)
                leaf = values[stage.bound] = values[stage.bound].detach().requires_grad_(grad)
        for node in self.reads:
            self._counted(values[node.name], node, count, rows)
        with torch.set_grad_enabled(grad):
            return [self._rows(values[node.name], node) for node in self.reads], leaf

    def _counted(self, value: Tensor, node: fx.Node, count: int, rows: Tensor) -> None:
        """Checks the number of rows. At another size a reshape may make several rows of one, and row i would then
        belong to another caller. Raises `InvalidArgument`."""
        if not self.by_rows[node.name] or len(value) == count:
            return
        made, given = (" x ".join(map(str, sides[2:])) for sides in (self.rows.meta["shape"], rows.shape))
        raise InvalidArgument(
            f"the model, made for {made}, makes {len(value)} rows of {count} at {given}; send images of its own size",
            reason="SIZE_NOT_SUPPORTED",
        )

    def _rows(self, value: Tensor, node: fx.Node) -> Tensor:
        """A value with the batch first and the channels second. A value without a batch dimension belongs to one
        row."""
        if self.fixed is None and not self.by_rows[node.name]:
            return value[None]
        return value.permute(0, 3, 1, 2) if node.name in self.last else value

    def _as_was(self, rows: Tensor, node: fx.Node) -> Tensor:
        """The inverse of `_rows`."""
        if self.fixed is None and not self.by_rows[node.name]:
            return rows[0]
        return rows.permute(0, 2, 3, 1) if node.name in self.last else rows

    def apart(self, value: Tensor) -> Tensor:
        """An activation or gradient at `wrt` with the batch first."""
        return self._rows(value, self.wrt)

    def _given(self, stage: Stage, taken: list[Tensor]) -> Sequence[Tensor]:
        """A stage's outputs. With a fixed batch each row runs by itself, repeated as often as the file needs; values
        get a batch dimension in front of their shape for one row."""
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


def _expanded(values: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in values.items()}
