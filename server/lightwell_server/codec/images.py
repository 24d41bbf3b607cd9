"""Images as messages: received as files or tensors, decoded, fitted, and sent on to a device."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor

from lightwell.v1 import types_pb2 as types
from lightwell_server.codec import pictures
from lightwell_server.codec.pictures import MAX_PIXELS, Fit, Pixels
from lightwell_server.codec.tensors import check_tensor, from_tensor, to_tensor
from lightwell_server.errors import InvalidArgument

_TIMES, _SECONDS = 6, 3e-9
"""Bytes of memory and seconds per byte of a tensor while it is checked and made a picture."""


def digest(image: types.Image) -> str:
    """SHA-256 of an image as it was sent, hexadecimal."""
    return hashlib.sha256(image.encoded or image.tensor.data).hexdigest()


def from_pixels(pixels: Pixels) -> types.Tensor:
    """A picture as a message [3, height, width], in 8 bits or the picture's own floating dtype."""
    if isinstance(pixels, Tensor):
        exact = types.DATA_TYPE_FLOAT64 if pixels.dtype == torch.float64 else types.DATA_TYPE_FLOAT32
        return from_tensor(pixels, exact)
    return from_tensor(torch.from_numpy(np.array(pixels)).permute(2, 0, 1))


def to_pixels(message: types.Tensor) -> Pil.Image:
    """A picture of 8 bits from a message [3, height, width]."""
    height, width = message.shape[1:]
    array = np.frombuffer(message.data, np.uint8).reshape(3, height, width)
    return Pil.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))


@dataclass(frozen=True)
class Channels:
    """The channels of an image that is no colour picture: their number, and the bands, counted from 1, that are
    drawn."""

    count: int
    bands: tuple[int, ...]


@dataclass(frozen=True)
class Decoded:
    """An image, its path in the request, and its channels if they are no colours."""

    pixels: Pixels
    path: str
    channels: Channels | None = None

    def message(self) -> types.Image:
        """The image as it is, to be sent on to a device."""
        return types.Image(tensor=from_pixels(self.pixels), fit=types.FIT_EXACT)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return pictures.height_width(self.pixels)

    def whole(self) -> Tensor:
        """The rows [1, 3, height, width] in [0, 1]."""
        return pictures.rows(self.pixels)

    def picture(self) -> Pil.Image:
        """The image in 8 bits."""
        bands = self.channels.bands if self.channels else ()
        return to_picture(self.whole(), bands) if isinstance(self.pixels, Tensor) else self.pixels

    def check_size(self, size: tuple[int, int], any_size: bool) -> None:
        """Raises InvalidArgument if the model does not take the image's size."""
        height, width = self.size
        if (height, width) != size and (not any_size or min(height, width) < min(32, *size)):
            raise InvalidArgument.at(
                f"{self.path}.fit", f"exact: the image is {height} x {width}, the model takes {size[0]} x {size[1]}"
            )

    def fitted(self, fit: Fit) -> tuple[Decoded, types.Placement]:
        """The part of the image that the model's card selects, at the card's size, and its placement in the image."""
        part, crop = pictures.cropped(self.pixels, fit, self.path)
        (down, across), (top, left) = crop.scale, crop.offset
        height, width = self.size
        return Decoded(part, self.path, self.channels), types.Placement(
            scale_x=across, scale_y=down, offset_x=left, offset_y=top, width=width, height=height
        )


def placed(size: tuple[int, int]) -> types.Placement:
    """The placement of an image that is used as it is."""
    return types.Placement(scale_x=1, scale_y=1, width=size[1], height=size[0])


@dataclass(frozen=True)
class Sent:
    """An image as it was sent, with its header read, and what decoding it costs in memory (besides the message) and
    time."""

    message: types.Image
    path: str
    channels: Channels | None
    file: pictures.File | None
    max_pixels: int

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        return math.prod(self.file.size if self.file else self.message.tensor.shape[1:])

    @property
    def bytes(self) -> int:
        """Most bytes of memory while it is decoded."""
        return self.file.bytes if self.file else _TIMES * len(self.message.tensor.data)

    @property
    def seconds(self) -> float:
        """Predicted seconds of decoding, on one processor."""
        return self.file.seconds if self.file else _SECONDS * len(self.message.tensor.data)

    def decoded(self) -> Decoded:
        """Decodes it. Raises InvalidArgument saying what to change."""
        if self.file is not None:
            return Decoded(self.file.decoded(), self.path)
        tensor = to_tensor(self.message.tensor, f"{self.path}.tensor")
        return Decoded(_checked(tensor, self.path, self.max_pixels, self.channels), self.path, self.channels)


def sent(
    image: types.Image,
    path: str,
    max_pixels: int = MAX_PIXELS,
    channels: Channels | None = None,
    stop: threading.Event | None = None,
) -> Sent:
    """An image before it is decoded; a tensor if its `channels` are no colours. Decoding ends early when `stop` is set.
    Raises InvalidArgument saying what to change."""
    if image.fit not in types.Fit.values():
        raise InvalidArgument.at(f"{path}.fit", f"{image.fit} is no Fit")
    source = image.WhichOneof("source")
    if source is None:
        raise InvalidArgument.at(path, "an image is required: send `encoded` or `tensor`")
    if source == "encoded" and channels is not None:
        raise InvalidArgument.at(
            path, f"the model takes no pictures but tensors; send `tensor` [{channels.count}, height, width]"
        )
    file = pictures.headed(image.encoded, path, max_pixels, stop) if source == "encoded" else None
    if file is None:
        check_tensor(image.tensor, f"{path}.tensor")
    return Sent(image, path, channels, file, max_pixels)


def _checked(tensor: Tensor, path: str, max_pixels: int, channels: Channels | None) -> Pixels:
    count = channels.count if channels else 3
    if channels is None and tensor.dim() == 3 and tensor.shape[0] == 1:  # grey has equal colours
        tensor = tensor.expand(3, -1, -1)
    if tensor.dim() != 3 or tensor.shape[0] != count or tensor.numel() == 0:
        raise InvalidArgument.at(f"{path}.tensor.shape", f"{list(tensor.shape)} is not [{count}, height, width]")
    if tensor.shape[1] * tensor.shape[2] > max_pixels:
        raise InvalidArgument.at(f"{path}.tensor.shape", f"{list(tensor.shape)} has more than {max_pixels:,} pixels")
    if tensor.dtype == torch.uint8 and channels is not None:
        return tensor.float() / 255
    if tensor.dtype == torch.uint8:
        return Pil.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())
    if not tensor.is_floating_point():
        raise InvalidArgument.at(f"{path}.tensor.dtype", "an image is UINT8 or floating")
    if not bool(((tensor >= 0) & (tensor <= 1)).all()):
        raise InvalidArgument.at(
            f"{path}.tensor", "has values outside [0, 1] or not finite; divide 8-bit values by 255"
        )
    return tensor.double() if tensor.dtype == torch.float64 else tensor.float()


def to_picture(image: Tensor, bands: Sequence[int] = ()) -> Pil.Image:
    """A picture of 8 bits from [1, 3, H, W] in [0, 1], or from other channels by the `bands`: three, or one as grey.
    Values that are not finite become black."""
    shown = image[0, [band - 1 for band in bands]].expand(3, -1, -1) if bands else image[0]
    values = shown.detach().float().nan_to_num(0, 0, 0).clamp(0, 1).mul(255).round().byte()
    return Pil.fromarray(values.permute(1, 2, 0).cpu().numpy())


def png(picture: Pil.Image, stop: threading.Event | None = None) -> bytes:
    """The picture as a PNG file. Raises InterruptedError when `stop` is set."""
    buffer = pictures.Stoppable(stop=stop)
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
