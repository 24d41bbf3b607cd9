"""Replacements of operations that a graph must not contain: in-place operations, and fused ones without a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import ops
from torch._ops import OpOverload

from lightwell_server.models.lifting.views import Box, Memory, Recording, refresh

aten = ops.aten

Functional = Callable[..., Any]


def of(target: OpOverload) -> Functional | None:
    """The functional form of an in-place operation, or None."""
    if target in _WRITERS:
        return _WRITERS[target]
    written = [
        argument.alias_info is not None and argument.alias_info.is_write for argument in target._schema.arguments
    ]
    name = target._schema.name.partition("::")[2]
    plain = f"__{name[3:]}" if name.startswith("__i") else name.removesuffix("_")
    functional = getattr(getattr(aten, plain, None), target._overloadname, None)
    if (
        not written[0]
        or any(written[1:])
        or plain == name
        or functional is None
        or plain in ("set", "resize", "resize_as")
    ):
        return None
    return lambda recorder, *args, **kwargs: recorder.op(functional, args, kwargs)


def _copied(recorder: Recording, box: Box, source: Box, non_blocking: bool = False) -> Any:  # noqa: ANN401
    typed = recorder.op(aten.to.dtype, (source, box.value.dtype), {})
    return recorder.op(aten.expand_as.default, (typed, box), {})


def _filled(recorder: Recording, box: Box, value: Any) -> Any:  # noqa: ANN401
    return recorder.op(aten.full_like.default, (box, value), {})


def _zeroed(recorder: Recording, box: Box) -> Any:  # noqa: ANN401
    return recorder.op(aten.zeros_like.default, (box,), {})


_WRITERS: dict[OpOverload, Functional] = {
    aten.copy_.default: _copied,
    aten.copy_.Tensor: _copied,
    aten.copy_.float: _filled,
    aten.copy_.int: _filled,
    aten.fill_.Scalar: _filled,
    aten.fill_.Tensor: _copied,
    aten.zero_.default: _zeroed,
    # Overloads whose functional forms have another name.
    aten.pow_.Scalar: lambda recorder, box, exponent: recorder.op(aten.pow.Tensor_Scalar, (box, exponent), {}),
    aten.pow_.Tensor: lambda recorder, box, exponent: recorder.op(aten.pow.Tensor_Tensor, (box, exponent), {}),
    aten.transpose_.default: lambda recorder, box, *dims: recorder.op(aten.transpose.int, (box, *dims), {}),
}


def _contiguous(recorder: Recording, box: Box, **_: Any) -> Box:  # noqa: ANN401
    """The same values. The layout in the graph does not matter, but what was a copy gets its own memory."""
    if box.stale:
        refresh(recorder, box)
    if box.value.is_contiguous():
        return box
    value = box.value.contiguous()
    return Box(value, box.node, Memory(value, box.node))


def _unchanged(recorder: Recording, box: Box, *_: Any) -> Box:  # noqa: ANN401
    return box


def _attention(
    recorder: Recording,
    query: Box,
    key: Box,
    value: Box,
    embed_dim: int,
    num_head: int,
    qkv_weight: Box,
    qkv_bias: Box,
    proj_weight: Box,
    proj_bias: Box,
    mask: Box | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Box, Box | None]:
    """Multi-head attention, by operations that have gradients. Raises `Refused` if there is a mask."""
    if mask is not None:
        raise recorder.refuse("a fused attention with a mask has no gradient; export the model with gradients enabled")
    weights, biases = (recorder.op(aten.chunk.default, (whole, 3), {}) for whole in (qkv_weight, qkv_bias))
    heads = []
    for given, weight, bias in zip((query, key, value), weights, biases, strict=True):
        projected = recorder.op(aten.linear.default, (given, weight, bias), {})
        rows, tokens = recorder.size(projected, 0), recorder.size(projected, 1)
        split = recorder.shaped(projected, [rows, tokens, num_head, embed_dim // num_head])
        heads.append(recorder.op(aten.transpose.int, (split, 1, 2), {}))
    turned = recorder.op(aten.transpose.int, (heads[1], -2, -1), {})
    likeness = recorder.op(aten.matmul.default, (heads[0], turned), {})
    likeness = recorder.op(aten.mul.Scalar, (likeness, 1 / math.sqrt(embed_dim // num_head)), {})
    attention = recorder.op(aten.softmax.int, (likeness, -1), {})
    mixed = recorder.op(aten.matmul.default, (attention, heads[2]), {})
    mixed = recorder.op(aten.transpose.int, (mixed, 1, 2), {})
    joined = recorder.shaped(mixed, [recorder.size(mixed, 0), recorder.size(mixed, 1), embed_dim])
    result = recorder.op(aten.linear.default, (joined, proj_weight, proj_bias), {})
    if not need_weights:
        return result, None
    return result, recorder.op(aten.mean.dim, (attention, [1]), {}) if average_attn_weights else attention


def _encoder_layer(
    recorder: Recording,
    src: Box,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Box,
    qkv_bias: Box,
    proj_weight: Box,
    proj_bias: Box,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    *parameters: Any,  # noqa: ANN401
) -> Box:
    """A transformer's encoder layer, by operations that have gradients."""
    scale_1, shift_1, scale_2, shift_2, ffn_1, ffn_bias_1, ffn_2, ffn_bias_2, *mask = parameters
    norms = ((scale_1, shift_1), (scale_2, shift_2))

    def normed(box: Box, which: int) -> Box:
        result: Box = recorder.op(aten.layer_norm.default, (box, [embed_dim], *norms[which], eps), {})
        return result

    def attended(box: Box) -> Box:
        projection = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        masked = mask[0] if mask else None
        return _attention(recorder, box, box, box, embed_dim, num_heads, *projection, masked, need_weights=False)[0]

    def fed_forward(box: Box) -> Box:
        hidden = recorder.op(aten.linear.default, (box, ffn_1, ffn_bias_1), {})
        hidden = recorder.op(aten.gelu.default if use_gelu else aten.relu.default, (hidden,), {})
        result: Box = recorder.op(aten.linear.default, (hidden, ffn_2, ffn_bias_2), {})
        return result

    flow = src
    for which, part in enumerate((attended, fed_forward)):
        given = part(normed(flow, which) if norm_first else flow)
        flow = recorder.op(aten.add.Tensor, (flow, given), {})
        flow = flow if norm_first else normed(flow, which)
    return flow


DECOMPOSED: dict[OpOverload, Functional] = {
    aten.contiguous.default: _contiguous,
    aten.copy.default: _copied,  # the functional form of a write in a decomposed program
    aten.requires_grad_.default: _unchanged,
    aten._native_multi_head_attention.default: _attention,
    aten._transformer_encoder_layer_fwd.default: _encoder_layer,
}
