"""Properties of ATen operations that are needed to record them."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload

from lightwell_server.models.lifting.views import Box

aten = torch.ops.aten

# A view may get another memory layout than the sample's when the graph runs; reshape accepts every layout.
_REPLACED = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}


_CONVOLUTIONS = (aten._convolution.default, aten._convolution.deprecated, aten.convolution.default)


def recorded(value: Any) -> bool:  # noqa: ANN401
    """Whether a value depends on the model's inputs or their sizes."""
    return isinstance(value, Box) and value.node is not None


def of_image(value: Any) -> bool:  # noqa: ANN401
    """Whether a value depends on the contents of the model's inputs, and not on their sizes alone."""
    return recorded(value) and not value.node.meta.get("scalar")


def positional(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401
    """A call with every argument at its position in the operation's schema, except for keyword-only ones. Some
    exporters write by name what others write by position, and code that reads `args[3:]` needs the latter."""
    places = [argument for argument in target._schema.arguments if not argument.kwarg_only]
    last = max((i for i, argument in enumerate(places) if argument.name in kwargs), default=-1)
    named = dict(kwargs)
    filled = [named.pop(argument.name, argument.default_value) for argument in places[len(args) : last + 1]]
    return (*args, *filled), named


def canonical(target: OpOverload, args: tuple[Any, ...]) -> tuple[OpOverload, tuple[Any, ...]]:
    """The canonical form of an operation that exporters write in several forms."""
    if target in _CONVOLUTIONS and not args[6] and len(args[3]) == 2:
        return aten.conv2d.default, (*args[:6], args[8])
    if target is aten._convolution_mode.default and len(args[3]) == 2:
        return aten.conv2d.padding, args
    return _REPLACED.get(target, target), args


def is_factory(target: OpOverload) -> bool:
    """Whether an operation makes a tensor from numbers and sizes alone, with an optional dtype."""
    arguments = target._schema.arguments
    typed = any(argument.name == "dtype" and argument.kwarg_only for argument in arguments)
    return typed and not any("Tensor" in str(argument.type) for argument in arguments)


def reads_data(target: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether the contents of its arguments determine the size of the result, or become a number."""
    if target is aten.index.Tensor:
        return any(of_image(place) and place.value.dtype in (torch.bool, torch.uint8) for place in args[1])
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}.intersection(target.tags))


def switched_off(target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a dropout, or an attention with dropout, is switched off."""
    names = [argument.name for argument in target._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    if any(given.get(flag) is False for flag in ("train", "training")):
        return True
    chances = [given.get(name) for name in ("p", "dropout", "dropout_p") if name in names]
    return bool(chances) and not any(chances)
