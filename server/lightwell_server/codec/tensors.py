"""Conversion of tensors to messages and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwell.v1 import types_pb2 as types
from lightwell_server.errors import InvalidArgument

MAX_DIMENSIONS = 8
"""Most dimensions of a tensor that is sent."""

_DTYPES: dict[types.DataType.ValueType, np.dtype[Any]] = {
    types.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    types.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    types.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    types.DATA_TYPE_UINT8: np.dtype("u1"),
    types.DATA_TYPE_INT32: np.dtype("<i4"),
    types.DATA_TYPE_INT64: np.dtype("<i8"),
    types.DATA_TYPE_BOOL: np.dtype("?"),
}
_NUMBERS = {np.dtype(dtype): number for number, dtype in _DTYPES.items()}
_WEIGHTS = {
    torch.float32: types.DATA_TYPE_FLOAT32,
    torch.float16: types.DATA_TYPE_FLOAT16,
    torch.float64: types.DATA_TYPE_FLOAT64,
    torch.bfloat16: types.DATA_TYPE_BFLOAT16,
}


def data_type(dtype: torch.dtype) -> types.DataType.ValueType:
    """The enum's value for a floating dtype."""
    return _WEIGHTS[dtype]


def to_tensor(message: types.Tensor, path: str) -> Tensor:
    """A tensor that owns its memory. Raises InvalidArgument if shape, type and bytes do not agree."""
    check_tensor(message, path)
    array = np.frombuffer(message.data, _DTYPES[message.dtype])
    return torch.from_numpy(array.reshape(tuple(message.shape)).copy())


def check_tensor(message: types.Tensor, path: str) -> None:
    """Raises InvalidArgument if shape, type and bytes do not agree."""
    if message.dtype not in _DTYPES:
        raise InvalidArgument.at(f"{path}.dtype", "must be set to one of the known types")
    if len(message.shape) > MAX_DIMENSIONS:
        raise InvalidArgument.at(f"{path}.shape", f"has {len(message.shape)} dimensions; send at most {MAX_DIMENSIONS}")
    shape = tuple(message.shape)
    if any(side < 0 for side in shape):
        raise InvalidArgument.at(f"{path}.shape", f"{list(shape)} has a negative size")
    expected = math.prod(shape) * _DTYPES[message.dtype].itemsize
    if len(message.data) != expected:
        raise InvalidArgument.at(f"{path}.data", f"has {len(message.data)} bytes; shape {list(shape)} needs {expected}")
    if max(shape, default=0) >= 2**31:
        raise InvalidArgument.at(f"{path}.shape", f"{list(shape)} has too large a dimension")


def from_tensor(tensor: Tensor, dtype: types.DataType.ValueType = types.DATA_TYPE_FLOAT32) -> types.Tensor:
    """A tensor as a message; floating tensors are converted to `dtype`, others keep theirs."""
    array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).detach().cpu().numpy()
    if array.dtype.kind == "f":
        array = array.astype(_DTYPES[dtype or types.DATA_TYPE_FLOAT32])
    return types.Tensor(shape=array.shape, dtype=_NUMBERS[array.dtype], data=np.ascontiguousarray(array).tobytes())
