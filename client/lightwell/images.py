"""Converts images between the callers' types and messages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from lightwell.pictures import decode
from lightwell.v1 import types_pb2 as types

ImageLike = str | Path | bytes | Pil.Image | NDArray[Any] | types.Image
"""A file's path or bytes, a PIL image (sent upright and in RGB, as its file would be read), an array [H, W, 3] or [3,
H, W], for grey [H, W], [H, W, 1] or [1, H, W], for a model whose channels are not colours [channels, H, W] (integers
from 0 to 255, or floats in [0, 1]), or the message itself."""

CHANNELS = 64
"""The most channels of an image that is not a colour picture."""

_DTYPES: dict[np.dtype[Any], types.DataType.ValueType] = {
    np.dtype("float32"): types.DATA_TYPE_FLOAT32,
    np.dtype("float16"): types.DATA_TYPE_FLOAT16,
    np.dtype("float64"): types.DATA_TYPE_FLOAT64,
    np.dtype("uint8"): types.DATA_TYPE_UINT8,
    np.dtype("int32"): types.DATA_TYPE_INT32,
    np.dtype("int64"): types.DATA_TYPE_INT64,
    np.dtype("bool"): types.DATA_TYPE_BOOL,
}
_TYPES = {number: dtype.newbyteorder("<") for dtype, number in _DTYPES.items()}


def to_message(image: ImageLike, fit: str = "card") -> types.Image:
    """The image as a message; `fit` is card or exact. Raises ValueError if it is not an image, and OSError for a path
    that cannot be read."""
    if isinstance(image, types.Image):
        return image
    message = types.Image(fit=types.Fit.Value(f"FIT_{fit.upper()}"))
    if isinstance(image, str | Path):
        message.encoded = Path(image).read_bytes()
    elif isinstance(image, bytes):
        message.encoded = image
    elif isinstance(image, Pil.Image):
        message.encoded = png(decode.rgb(image))
    elif isinstance(image, np.ndarray):
        message.tensor.CopyFrom(to_tensor(_bytes(_channels_first(image))))
    else:
        raise ValueError(f"a {type(image).__name__} is no image; give a path, bytes, a PIL image or an array")
    return message


def to_tensor(array: NDArray[Any]) -> types.Tensor:
    """An array as a message. Raises ValueError for dtypes that the service does not know."""
    if array.dtype not in _DTYPES:
        raise ValueError(f"arrays of {array.dtype} cannot be sent; convert to float32 or uint8")
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return types.Tensor(shape=array.shape, dtype=_DTYPES[array.dtype], data=data)


def to_array(message: types.Tensor) -> NDArray[Any]:
    """A message as a new array."""
    return np.frombuffer(message.data, _TYPES[message.dtype]).reshape(tuple(message.shape)).copy()


def to_picture(message: types.Image, bands: Sequence[int] = ()) -> Pil.Image:
    """The image for drawing: upright, RGB. Of a tensor whose channels are not colours one or three `bands`, counted
    from 1, are taken; by default the first."""
    if message.WhichOneof("source") == "encoded":
        return decode.rgb(decode.opened(io.BytesIO(message.encoded)))
    array = to_array(message.tensor)
    bands = bands or ([] if len(array) == 3 else [1, 2, 3] if len(array) > 3 else [1])
    array = np.broadcast_to(array[[band - 1 for band in bands]], (3, *array.shape[1:])) if bands else array
    array = array if array.dtype == np.uint8 else (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
    return from_pixels(array)


def from_pixels(array: NDArray[np.uint8]) -> Pil.Image:
    """The picture of pixels [3, H, W], uint8."""
    return Pil.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))


def png(image: Pil.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """The array as [channels, H, W]. Raises ValueError if it is not an image, or if the channels are ambiguous."""
    planes = array[None] if array.ndim == 2 else array
    first, last = (planes.ndim == 3 and planes.shape[axis] in (1, 3) for axis in (0, -1))
    if planes.ndim != 3 or (array.ndim == 3 and first and last) or not (first or last or len(planes) <= CHANNELS):
        wrong = "can be read in two ways" if first and last else "is no image"
        raise ValueError(
            f"an array of shape {array.shape} {wrong}; give [H, W, 3] or [3, H, W], grey as [H, W], [H, W, 1] or "
            f"[1, H, W], or [channels, H, W] to a model that takes up to {CHANNELS}"
        )
    return planes if first else planes.transpose(2, 0, 1) if last else planes


def _bytes(array: NDArray[Any]) -> NDArray[Any]:
    """Integers as uint8; other dtypes unchanged. Raises ValueError for integers out of range."""
    if array.dtype.kind not in "iu" or array.dtype == np.uint8:
        return array
    if array.size and (array.min() < 0 or array.max() > 255):
        raise ValueError(
            f"an array of {array.dtype} has values from {array.min()} to {array.max()}; an image has whole numbers from"
            " 0 to 255, or floats from 0 to 1"
        )
    return array.astype(np.uint8)
