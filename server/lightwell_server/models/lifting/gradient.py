"""Verifies that a gradient of a graph's output reaches the image, or names the operation that stops it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lightwell_server.contract import INPUT, OUTPUT
from lightwell_server.errors import Refused, last_line
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.sample import Sample
from lightwell_server.models.subgraph import SubgraphKey


def differentiate(graph: Graph, sample: Sample) -> None:
    """Raises `Refused` with the operation that stops it if no gradient of the output reaches the image. Nothing could
    be explained then."""
    rows, *others = sample.rows(1, seed=5, dtype=graph.dtype)
    inputs = dict(zip(graph.inputs.values(), others, strict=True))
    try:
        (output,), leaf = graph.subgraph(SubgraphKey((OUTPUT,))).run(rows, inputs, torch.arange(1), grad=True)
        with torch.enable_grad():
            reaches = output.requires_grad and leaf is not None
            grad = (
                torch.autograd.grad(output.sum(), leaf, allow_unused=True)[0] if reaches and leaf is not None else None
            )
    except (RuntimeError, NotImplementedError) as error:
        raise Refused(_without_gradient(graph, rows, inputs, last_line(error))) from error
    if grad is None:
        raise Refused(_without_gradient(graph, rows, inputs, ""))


def _without_gradient(graph: Graph, rows: Tensor, inputs: dict[str, Tensor], reason: str) -> str:
    """The error message, which names the operation that stops the gradient."""
    node = _blocking(graph, rows, inputs)
    reason = f" ({reason})" if reason else ""
    if node is None:
        return f"no gradient of the output reaches the image{reason}; nothing can be explained"
    place = node.meta.get("path") or "the model"
    where = f"{place} ({node.meta['source']})" if node.meta.get("source") else place
    return (
        f"no gradient of the output reaches the image: {node.target} in {where} has none{reason}; replace it by an "
        "operation that can be differentiated, or export the model with gradients enabled"
    )


def _blocking(graph: Graph, rows: Tensor, inputs: dict[str, Tensor]) -> fx.Node | None:
    """The last operation without an implemented gradient, else the last one whose input requires a gradient and whose
    output does not."""
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
    """Whether the backward of the operation that made a value runs."""
    backward: Any = value.grad_fn
    try:
        if backward is not None:
            backward(torch.ones_like(value))
    except (RuntimeError, NotImplementedError):
        return False
    return True
