"""Python functions for TorchScript's operators on sizes, numbers and containers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightwell_server.models.lifting.recorder import Recorder
from lightwell_server.models.lifting.views import Box, product

aten = torch.ops.aten


def _divide(a: float, b: float, rounding_mode: str | None = None) -> float:
    if rounding_mode is None:
        return a / b
    return a // b if rounding_mode == "floor" else math.trunc(a / b)


# Functions that may be recorded have a name: a graph cannot hold a lambda.
def _itself(value: Any) -> Any:  # noqa: ANN401
    return value


def _added(a: float, b: float, alpha: float = 1) -> float:
    return a + alpha * b


def _subtracted(a: float, b: float, alpha: float = 1) -> float:
    return a - alpha * b


def _subtracted_from(a: float, b: float, alpha: float = 1) -> float:
    return b - alpha * a


def _range_length(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


def _derived_index(index: int, start: int, step: int) -> int:
    return start + index * step


def _clamped(value: float, low: float | None = None, high: float | None = None) -> float:
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


def _cast(value: float, *how: Any) -> float:  # noqa: ANN401
    """A number converted to the dtype whose TorchScript index is in `how`; devices and flags are ignored."""
    kinds = [DTYPES[part] for part in how if type(part) is int]
    if not kinds or kinds[0].is_floating_point:
        return value
    return bool(value) if kinds[0] is torch.bool else int(_single(value))


def _single(value: float) -> float:
    """A floating number rounded to float32; integers unchanged."""
    return torch.tensor(value, dtype=torch.float32).item() if isinstance(value, float) else value


def _int(value: float) -> int:
    return int(_single(value))


def _floor(value: float) -> int:
    return math.floor(_single(value))


def _ceil(value: float) -> int:
    return math.ceil(_single(value))


def _round(value: float) -> int:
    return round(_single(value))


def _trunc(value: float) -> int:
    return math.trunc(_single(value))


def _floor_divide(a: float, b: float) -> int:
    return a // b if isinstance(a, int) and isinstance(b, int) else _floor(a / b)


def _divided(a: float, b: float, rounding_mode: str | None = None) -> float:
    if rounding_mode is None or (isinstance(a, int) and isinstance(b, int)):
        return _divide(a, b, rounding_mode)
    return _floor(a / b) if rounding_mode == "floor" else _trunc(a / b)


def _set_item(container: Any, key: Any, value: Any) -> Any:  # noqa: ANN401
    container[key] = value
    return container


def _done(method: str) -> Callable[..., Any]:
    """A method of a container that changes it. TorchScript returns the container."""

    def change(container: Any, *args: Any) -> Any:  # noqa: ANN401
        getattr(container, method)(*args)
        return container

    return change


def _asked(method: str) -> Callable[..., Any]:
    """A method of a container that returns a value."""
    return lambda container, *args: getattr(container, method)(*args)


def _concat(first: Any, second: Any) -> Any:  # noqa: ANN401
    return first + second


def _extended(first: Any, second: Any) -> Any:  # noqa: ANN401
    first += second
    return first


def _delete(container: Any, key: Any) -> None:  # noqa: ANN401
    del container[key]


def _slice(container: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:  # noqa: ANN401
    return container[start:end:step]


def _sizes(recorder: Recorder, box: Box, dim: int | None = None) -> Any:  # noqa: ANN401
    if dim is not None:
        return recorder.size(box, dim)
    return [recorder.size(box, i) for i in range(box.value.dim())]


def _numel(recorder: Recorder, box: Box) -> Any:  # noqa: ANN401
    return recorder.scalar(product, *_sizes(recorder, box))


def tensor(recorder: Recorder, value: Any) -> Any:  # noqa: ANN401
    """The tensor that a trace has for a number, float64 if it is floating; any other value unchanged."""
    number = value.value if isinstance(value, Box) else value
    if not isinstance(number, int | float):
        return value
    kind = torch.float64 if isinstance(number, float) else _dtype([number])
    return recorder.op(aten.scalar_tensor.default, (value,), {"dtype": kind})


def literal(recorder: Recorder, data: Any, dtype: int | None) -> Any:  # noqa: ANN401
    """The tensor that a script makes of a number, a tensor, or nested lists of numbers, which may be sizes."""
    kind = None if dtype is None else DTYPES[dtype]
    if isinstance(data, Box) and isinstance(data.value, Tensor):
        return data if kind is None else recorder.op(aten.to.dtype, (data, kind), {})
    numbers, shape = _flat(data), _shape(data)
    kind = kind or _dtype([number.value if isinstance(number, Box) else number for number in numbers])
    if not numbers:
        return recorder.op(aten.zeros.default, (shape,), {"dtype": kind})
    each = [recorder.op(aten.scalar_tensor.default, (number,), {"dtype": kind}) for number in numbers]
    return recorder.shaped(recorder.op(aten.stack.default, (each,), {}), shape)


def _flat(data: Any) -> list[Any]:  # noqa: ANN401
    return [number for item in data for number in _flat(item)] if isinstance(data, list | tuple) else [data]


def _shape(data: Any) -> list[int]:  # noqa: ANN401
    return [len(data), *(_shape(data[0]) if data else [])] if isinstance(data, list | tuple) else []


def _dtype(numbers: list[Any]) -> torch.dtype:
    """The dtype of a tensor of numbers, as torch infers it."""
    return torch.tensor(numbers).dtype


LITERALS = ("tensor", "as_tensor")
"""Operations that make a tensor from a number or a list."""

# By TorchScript's index of a dtype.
DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32),
    torch.bfloat16,
)

# Properties of a tensor that do not depend on its elements.
TENSOR_FACTS: dict[str, Callable[..., Any]] = {
    "size": _sizes,
    "len": lambda recorder, box: recorder.size(box, 0),
    "_shape_as_tensor": lambda recorder, box: literal(recorder, _sizes(recorder, box), None),
    "numel": _numel,
    "dim": lambda recorder, box: box.value.dim(),
    "is_floating_point": lambda recorder, box: box.value.is_floating_point(),
    "dtype": lambda recorder, box: DTYPES.index(box.value.dtype),
    "device": lambda recorder, box: box.value.device,
    "layout": lambda recorder, box: box.value.layout,
    # Graphs are differentiated, so a file's branch for inference, which may have no gradient, must not be taken.
    "requires_grad": lambda recorder, box: True,
    "is_cuda": lambda recorder, box: box.value.is_cuda,
    "is_nested": lambda recorder, box: False,
    "is_quantized": lambda recorder, box: False,
    "is_sparse": lambda recorder, box: False,
    "is_mkldnn": lambda recorder, box: False,
    "ndim": lambda recorder, box: box.value.dim(),
    "__is__": lambda recorder, box, other: box is other,
    "__isnot__": lambda recorder, box, other: box is not other,
}

NUMBERS: dict[str, Callable[..., Any]] = {
    "Int": int,
    "Float": float,
    "Bool": bool,
    "item": _itself,
    "IntImplicit": int,
    "FloatImplicit": float,
    "ScalarImplicit": _itself,
    "NumToTensor": _itself,
}

CONTAINERS: dict[str, Callable[..., Any]] = {
    "__getitem__": operator.getitem,
    "_set_item": _set_item,
    "Delete": _delete,
    "add": _concat,
    "add_": _extended,
    "mul": lambda container, times: container * times,
    "len": len,
    "list": list,
    "slice": _slice,
    "keys": lambda mapping: list(mapping.keys()),
    "values": lambda mapping: list(mapping.values()),
    "items": lambda mapping: [tuple(item) for item in mapping.items()],
    "__contains__": operator.contains,
    "format": lambda text, *args: text.format(*args),
    "__str__": str,
    **{name: _done(name) for name in ("append", "extend", "insert", "reverse", "clear", "remove", "update", "sort")},
    **{name: _asked(name) for name in ("copy", "pop", "index", "count", "get", "setdefault", "join", "split", "find")},
    **{name: _asked(name) for name in ("startswith", "endswith", "replace", "lower", "upper", "strip")},
}

SEARCHES = ("__contains__", "index", "count", "remove")
"""Operations that compare a list's elements with a value."""
KEYED = (*SEARCHES, "mul", "__getitem__", "_set_item", "get", "setdefault", "pop", "insert", "Delete")
"""Operations whose first argument is a key, an index, a count or a value to search for."""

SCALARS: dict[str, Callable[..., Any]] = {
    "add": _added,
    "sub": _subtracted,
    "rsub": _subtracted_from,
    "mul": operator.mul,
    "div": _divide,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "neg": operator.neg,
    "pow": operator.pow,
    "sqrt": math.sqrt,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "abs": abs,
    "str": str,
    "clamp": _clamped,
    "exp": math.exp,
    "log": math.log,
    "gcd": math.gcd,
    "min": min,
    "max": max,
    "sum": sum,
    "any": any,
    "all": all,
    "mod": operator.mod,
    "fmod": math.fmod,
    "trunc": math.trunc,
    "__xor__": operator.xor,
    "__lshift__": operator.lshift,
    "__rshift__": operator.rshift,
    "__range_length": _range_length,
    "__derive_index": _derived_index,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "to": _cast,
    "is_scripting": lambda: True,
    "is_grad_enabled": lambda: True,
    "is_tracing": lambda: False,
    "warn": lambda *args: None,
    "Print": lambda *args: None,
}

SINGLE: dict[str, Callable[..., Any]] = {
    "Int": _int,
    "IntImplicit": _int,
    "floor": _floor,
    "ceil": _ceil,
    "round": _round,
    "trunc": _trunc,
    "floor_divide": _floor_divide,
    "div": _divided,
}
"""Conversions of floating numbers to integers where a trace computes with float32 tensors: 0.7 times 10 is 7 there. The
floating numbers themselves keep Python's precision, because a model may run in float64."""
