"""Batch norms in eval mode: folded into the convolution before them, or a scale and a shift where this is not
possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

aten = torch.ops.aten


def scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """A batch norm of `x` [n, channels, ...], floating, in eval mode, with the other tensors [channels]. It replaces
    aten's: on the CPU that has a wrong gradient for one row if the incoming gradient has another memory layout (seen in
    torch 2.15)."""
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    sides = (1, -1, *[1] * (x.dim() - 2))
    return torch.addcmul(shift.view(sides), x, scale.view(sides))


def in_eval(node: fx.Node) -> bool:
    """Whether a node is a batch norm that uses its statistics."""
    return node.target is aten.batch_norm.default and not node.args[5] and None not in node.args[3:5]


FOLDED = "folded_"
"""The prefix of the names of folded weights."""


def convolution(norm: fx.Node) -> fx.Node | None:
    """The convolution right before a batch norm in eval mode, if the weights of both are constants."""
    conv, *constants = norm.args[:5] if norm.target is aten.batch_norm.default else (None,)
    if not isinstance(conv, fx.Node) or conv.target is not aten.conv2d.default:
        return None
    known = all(c is None or (isinstance(c, fx.Node) and c.op == "get_attr") for c in (*constants, *conv.args[1:3]))
    training = norm.args[5] or None in constants[2:]
    return conv if known and not training else None


def fold(
    graph: fx.Graph,
    root: torch.nn.Module,
    norm: fx.Node,
    conv: fx.Node,
    copies: dict[fx.Node, fx.Node],
    constants: dict[str, Tensor],
) -> fx.Node:
    """Writes both as one convolution into `graph`. Its weights are kept on `root`, so that they are computed once for
    all subgraphs."""
    names = [f"{FOLDED}{norm.name}_{part}" for part in ("weight", "bias")]
    if not hasattr(root, names[0]):
        for name, value in zip(names, _weights(root, norm.args, conv.args), strict=True):
            root.register_buffer(name, value.detach(), persistent=False)
    constants.update({name: getattr(root, name) for name in names})
    source: Any = conv.args[0]
    parameters = [graph.get_attr(name) for name in names]
    folded = graph.call_function(aten.conv2d.default, (copies[source], *parameters, *conv.args[3:]))
    folded.meta = dict(norm.meta)
    return folded


def _weights(root: torch.nn.Module, norm: Any, conv: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - arguments of nodes
    def value(node: fx.Node | None) -> Any:  # noqa: ANN401
        return None if node is None else getattr(root, str(node.target))

    def wide(node: fx.Node | None) -> Any:  # noqa: ANN401
        """In float32 or wider, so that folding rounds once."""
        constant = value(node)
        return None if constant is None else constant.to(torch.promote_types(constant.dtype, torch.float32))

    weight, bias, mean, var = (wide(node) for node in norm[1:5])
    own_bias = wide(conv[2]) if len(conv) > 2 else None
    fused = fuse_conv_bn_weights(wide(conv[1]), own_bias, mean, var, norm[7], weight, bias)
    return fused[0].to(value(conv[1]).dtype), fused[1].to(value(conv[1]).dtype)
