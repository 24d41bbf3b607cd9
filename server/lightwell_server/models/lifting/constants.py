"""Replaces constants in the graph of a TorchScript file: devices, and tensors of a dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightwell_server.models.lifting import eval_mode


def on_cpu(graph: Any) -> None:  # noqa: ANN401
    """Replaces the devices in a file's code, such as that of an accelerator it was exported on, by the CPU."""

    def placed(value: Any) -> Any:  # noqa: ANN401
        return torch.device("cpu") if isinstance(value, torch.device) else value

    _change(graph, placed)


def typed(graph: Any, old: torch.dtype, new: torch.dtype) -> None:  # noqa: ANN401
    """Converts constant tensors of dtype `old`, such as the weights of a frozen file, to `new`."""

    def follow(value: Any) -> Any:  # noqa: ANN401
        return value.to(new) if isinstance(value, Tensor) and value.dtype is old else value

    _change(graph, follow)


def _change(graph: Any, change: Callable[[Any], Any]) -> None:  # noqa: ANN401
    for each in _graphs(graph):
        for node in list(eval_mode.nodes(each)):
            if node.kind() != "prim::Constant" or not node.hasAttributes() or node.hasAttribute("name"):
                continue
            value = node.output().toIValue()
            changed = change(value)
            if changed is not value:
                replaced = each.insertConstant(changed)
                replaced.node().moveBefore(node)
                node.output().replaceAllUsesWith(replaced)


def _graphs(graph: Any) -> Iterator[Any]:  # noqa: ANN401
    """A graph, and the graphs that it forks."""
    yield graph
    for node in eval_mode.nodes(graph):
        if node.hasAttribute("Subgraph"):
            yield from _graphs(node.g("Subgraph"))
