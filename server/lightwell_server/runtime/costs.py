"""Estimates the cost of a request: its method runs with empty answers, and its Asks are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from lightwell_server.catalog import Method
from lightwell_server.contract import ACT, GRAD, OUT, OUTPUT, SCORE, Answer, Ask, Frame, Work
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.footprint import row_bytes, shape_at
from lightwell_server.models.graph import Graph
from lightwell_server.runtime.limits import Limits
from lightwell_server.runtime.prepare import PreparedRequest

ASKS = 256
"""Asks of a method that are counted: all of methods without frames, of which smooth_grad has most, 158. A method with
frames is extrapolated from its second frame."""
Pricing = Callable[[Any, Ask, Any], float | None]
"""Device seconds of an Ask to a model with other inputs, from experience; None without."""


@dataclass
class Cost:
    """`rows` through the model, `gradients` of them; `steps` as in the method's frames; `memory` in bytes of the
    largest single row; `seconds` of the device, None without experience; `early` if the method may stop early and cost
    less."""

    rows: float = 0
    gradients: float = 0
    steps: int = 0
    memory: int = 0
    seconds: float | None = 0.0
    early: bool = False

    def add(self, graph: Graph, ask: Ask, seconds: float | None) -> None:
        """Counts one Ask."""
        self.rows += ask.count
        self.gradients += ask.count if ask.want & GRAD else 0
        self.memory = max(self.memory, row_bytes(graph, ask))
        self.seconds = None if seconds is None or self.seconds is None else self.seconds + seconds

    def times(self, share: float, since: Cost) -> None:
        """Adds `share` times what was counted since an earlier copy."""
        self.rows += share * (self.rows - since.rows)
        self.gradients += share * (self.gradients - since.gradients)
        if self.seconds is not None and since.seconds is not None:
            self.seconds += share * (self.seconds - since.seconds)

    def copy(self) -> Cost:
        """A copy of the present counts."""
        return Cost(**vars(self))


def cost_of(prepared: PreparedRequest, limits: Limits, seconds: Pricing) -> Cost:
    """The cost of a request, extrapolated from the first two frames of its method. Raises the errors of `limits`."""
    cost, before, reply = Cost(), Cost(), None
    given = dict(prepared.parameters)
    needs = prepared.method.needs
    early = needs.early is not None and bool(given[needs.early])
    if needs.early is not None:
        given[needs.early] = False  # it runs to its second frame
    steps = replace(prepared, parameters=given).steps()
    for _ in range(ASKS):
        try:
            step = steps.send(reply)
        except StopIteration:
            break
        reply = None
        if isinstance(step, Frame):
            if step.steps > limits.steps:
                raise _too_many(prepared.method, step.steps, limits.steps)
            if cost.steps:
                cost.times(step.steps - step.step, before)
                break
            cost.steps, before = step.steps, cost.copy()
        elif isinstance(step, Work):
            reply = step.function(*step.arguments)
        else:
            graph = prepared.graph(step)
            limits.fitting(graph, step)
            cost.add(graph, step, seconds(graph, step, prepared.inputs))
            index = getattr(prepared.target, "index", None)
            reply = empty(graph, step, index if isinstance(index, int) else 0)
    steps.close()
    cost.early = early
    return cost


def empty(graph: Graph, ask: Ask, top: int) -> Answer:
    """An answer of zeros in which only the class `top` has a score of 1, so that no attack has succeeded. Layers that
    are read have a single position: otherwise the method's own computation could cost as much as the model."""

    dtype = torch.promote_types(graph.dtype, torch.float32)

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(ask.count, *shape, device=graph.device, dtype=dtype)

    def read(name: str) -> torch.Tensor:
        if name != OUTPUT:
            return zeros(*(1 if i else n for i, n in enumerate(shape_at(graph, ask, name))))
        scores = zeros(*shape_at(graph, ask, name))
        if scores.dim() == 2:
            scores[:, top] = 1
        return scores

    act = zeros(*shape_at(graph, ask, ask.wrt)) if ask.want & (ACT | GRAD) else None
    outs = tuple(read(name) for name in ((ask.at,) if isinstance(ask.at, str) else ask.at)) if ask.want & OUT else None
    return Answer(
        score=zeros() if ask.want & SCORE else None,
        out=outs[0] if outs is not None and isinstance(ask.at, str) else outs,
        act=act if ask.want & ACT else None,
        grad=act if ask.want & GRAD else None,
    )


def _too_many(method: Method, steps: int, most: int) -> InvalidArgument:
    field = method.name if method.needs.planned is None else f"{method.name}.{method.needs.planned}"
    return InvalidArgument.at(field, f"plans {steps:,} steps; this server runs {most:,} at most")
