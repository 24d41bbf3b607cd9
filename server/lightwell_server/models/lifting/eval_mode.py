"""Sets dropouts and batch norms that were exported in training mode to eval mode, in the file's own graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import ops
from torch._ops import OpOverload

from lightwell_server.models.lifting.operations import positional

aten = ops.aten

DEPTH = 50
"""How many levels of nested calls are inlined."""

_DROPOUTS = ("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_")
_TRAIN = {**{f"aten::{name}": 2 for name in _DROPOUTS}, "aten::batch_norm": 5, "aten::instance_norm": 5}
"""TorchScript's operations, with the index of their flag for training mode."""


def nodes(block: Any) -> Iterator[Any]:  # noqa: ANN401 - a graph or a block
    """All nodes of a TorchScript graph, including those in branches and loops."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes(inner)


def script(module: Any) -> Any:  # noqa: ANN401
    """Sets a newly loaded TorchScript module to eval mode: every dropout, and every batch norm that has statistics. All
    calls are inlined, because the flag may be an argument of a function."""
    graph = module.graph
    for _ in range(DEPTH):  # one pass may inline one level
        if not any(node.kind() in ("prim::CallMethod", "prim::CallFunction") for node in nodes(graph)):
            break
        torch._C._jit_pass_inline(graph)
    for node in list(nodes(graph)):
        place = _TRAIN.get(node.kind())
        if place is None or (place == 5 and _optional(node.inputsAt(3))):
            continue
        if node.inputsAt(place).node().kind() == "prim::Constant" and node.inputsAt(place).toIValue():
            off = graph.insertConstant(False)
            off.node().moveBefore(node)
            node.replaceInput(place, off)
    return module


def _optional(value: Any) -> bool:  # noqa: ANN401
    """Whether a tensor may be None: a batch norm without running statistics uses the batch's, in eval mode too."""
    return bool(value.type().kind() != "TensorType")


def program(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same for a `torch.export` program."""
    for node in exported.graph.nodes:
        if isinstance(node.target, OpOverload):
            args, node.kwargs = positional(node.target, node.args, node.kwargs)
            node.args = evaluated(node.target, args)[0]
    return exported


def evaluated(target: Any, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:  # noqa: ANN401
    """The arguments of an operation, with training mode off where that is possible, and whether it was on."""
    if target in (aten.batch_norm.default, aten.instance_norm.default) and args[5] and args[3] is not None:
        return (*args[:5], False, *args[6:]), True
    if target in _FX_DROPOUTS and args[2]:
        return (*args[:2], False), True
    return args, False


_FX_DROPOUTS = {getattr(aten, name).default for name in _DROPOUTS}
