"""How a gradient passes a ReLU backwards: plain, guided (Springenberg et al. 2014, arXiv:1412.6806) or as in a
deconvnet (Zeiler and Fergus 2013, arXiv:1311.2901)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from lightwell_server.ask import Rule

aten = torch.ops.aten


def is_relu(node: fx.Node) -> bool:
    """Whether a node cuts off what is negative: relu, relu6, hardtanh and clamp from zero."""
    if node.target in (aten.relu.default, aten.relu6.default):
        return True
    if node.target in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default):
        return len(node.args) > 1 and bool(node.args[1] == 0)
    return False


class _Exchanged(torch.autograd.Function):
    """A ReLU whose backward drops what is negative in the gradient and, when guided, what its own forward cut off."""

    @staticmethod
    def forward(context: Any, activations: Tensor, passed: Tensor, guided: bool) -> Tensor:  # noqa: ANN401
        context.guided = guided
        context.save_for_backward(activations, passed)
        return passed.clone()

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        activations, passed = context.saved_tensors
        grad = grads[0].clamp(min=0)
        # An upper bound (ReLU6) holds its gradient back under every rule.
        held = activations > passed
        return grad.masked_fill(held | (activations <= 0) if context.guided else held, 0), None, None


def exchanged(rule: Rule, target: Callable[..., Tensor], activations: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """The same values as `target(activations, ...)`, with the rule's backward."""
    with torch.no_grad():
        passed = target(activations, *args, **kwargs)
    result: Tensor = _Exchanged.apply(activations, passed, rule == "guided")
    return result
