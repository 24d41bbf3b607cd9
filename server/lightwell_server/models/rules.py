"""The backward rules of ReLU: plain, guided (Springenberg et al. 2014, arXiv:1412.6806) and deconvnet (Zeiler and
Fergus 2013, arXiv:1311.2901)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from lightwell_server.contract import Rule

aten = torch.ops.aten


def is_relu(node: fx.Node) -> bool:
    """Whether a node clips negative values: relu, relu6, hardtanh and clamp from zero."""
    if node.target in (aten.relu.default, aten.relu6.default):
        return True
    if node.target in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default):
        return len(node.args) > 1 and bool(node.args[1] == 0)
    return False


class _Exchanged(torch.autograd.Function):
    """A ReLU whose backward clips negative gradients and, when guided, also applies the mask of its own forward. An
    upper bound (ReLU6) stops the gradient under every rule. It saves its output, which the next layer saves anyway, and
    its input only where there may be a bound."""

    generate_vmap_rule = True  # files with a fixed batch are run under vmap

    @staticmethod
    def forward(rule: Rule, target: Callable[..., Tensor], taken: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        return target(taken, *args)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        rule, target, taken, *args = inputs
        context.guided, context.count = rule == "guided", len(args)
        context.save_for_backward(output, None if target is aten.relu.default else taken)

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        given, taken = context.saved_tensors
        # The gradient that ReLU's own backward returns is a new tensor, which may be changed in place.
        passed = aten.threshold_backward(grads[0], given, 0).relu_() if context.guided else grads[0].relu()
        if taken is not None:
            passed.masked_fill_(taken > given, 0)
        return None, None, passed, *[None] * context.count


def exchanged(rule: Rule, target: Callable[..., Tensor], activations: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """The same values as `target(activations, ...)`, with the rule's backward."""
    result: Tensor = _Exchanged.apply(rule, partial(target, **kwargs) if kwargs else target, activations, *args)
    return result
