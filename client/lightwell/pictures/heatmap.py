"""Enlarges a map from its native grid to the model's input, in the SDK and in the server."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightwell.v1 import types_pb2 as types

Floats = NDArray[np.float32]


def enlarged(values: Floats, message: types.Heatmap) -> Floats:
    """Native values [h, w], float32, enlarged to the model's input [height, width] by the rule of the message."""
    size = message.height, message.width
    if message.enlargement == types.ENLARGEMENT_BILINEAR:
        return bilinear(values, *size)
    if message.enlargement == types.ENLARGEMENT_WINDOWS:
        return window_mean(values, *size, message.window, message.stride)
    return values


def bilinear(values: Floats, height: int, width: int) -> Floats:
    """Linear interpolation between the centres of the cells, constant beyond the outermost centres."""
    return _along(_along(values, height, 0), width, 1)


def _along(values: Floats, size: int, axis: int) -> Floats:
    places = np.clip((np.arange(size) + 0.5) * values.shape[axis] / size - 0.5, 0, values.shape[axis] - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = (places - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share[None, :]
    blended: Floats = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return blended


def window_mean(values: Floats, height: int, width: int, window: int, stride: int) -> Floats:
    """The mean of all windows that cover a pixel, or zero if none does."""
    total = np.zeros((height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    for (row, column), value in np.ndenumerate(values):
        place = np.s_[row * stride : row * stride + window, column * stride : column * stride + window]
        total[place] += value
        count[place] += 1
    mean: Floats = (total / np.maximum(count, 1)).astype(np.float32)
    return mean
