"""Images as files and as rows: decoding, and the resize and crop of a model's card."""

from __future__ import annotations

import functools
import io
import math
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pil
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from torch import Tensor

from lightwell.pictures import decode
from lightwell.pictures.decode import FORMATS
from lightwell_server.errors import InvalidArgument

SHORT = tuple(name for name in FORMATS if name not in ("PNG", "TIFF", "WEBP"))
"""Formats whose header Pillow reads fast enough for `header_size`."""
MAX_PIXELS = 50_000_000
"""Most pixels of an image, by its header."""
HEADER = 65_536
"""Bytes of a file in which `header_size` looks for the size."""
MAX_SCANS = 100
"""Most scans of a JPEG: each takes time for all pixels, however few bytes it has. Usual files have about ten."""
MAX_SECONDS = 5.0
"""Most predicted seconds of decoding a file."""

_WEBP_BYTES, _WEBP_SECONDS = 20, 5e-8
"""Cost per pixel of decoding a WebP: its decoder has two pictures of four channels besides the result."""
_PNG = b"\x89PNG\r\n\x1a\n"
_SCAN = re.compile(rb"\xff\xda\x00")  # the start of a scan; within pixel data a zero follows each 255
_FILTERS = {
    "nearest": Pil.Resampling.NEAREST,
    "bilinear": Pil.Resampling.BILINEAR,
    "bicubic": Pil.Resampling.BICUBIC,
}

Pixels = Pil.Image | Tensor
"""A picture of 8 bits, or floats [3, height, width] in [0, 1]."""


@dataclass(frozen=True)
class Fit:
    """How an image becomes the model's input: the shorter side is resized to `resize`, and the central `size` (height,
    width) is cropped. `antialias` smooths when the image is reduced."""

    size: tuple[int, int]
    resize: int
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True


@dataclass(frozen=True)
class Crop:
    """Where the model's pixels lie in the original: the size of one of them, and the corner of the first one, each as
    (down, across) in the original's pixels."""

    scale: tuple[float, float]
    offset: tuple[float, float]


@dataclass(frozen=True)
class File:
    """An image file of which the header has been read. `size` is height and width, `bytes` the most memory that
    decoding takes besides the file itself, and `seconds` the predicted time of decoding."""

    opened: Callable[[], Pil.Image]
    path: str
    size: tuple[int, int]
    bytes: int
    seconds: float

    def decoded(self) -> Pil.Image:
        """The decoded picture, in RGB."""
        with _blamed_on(self.path):
            picture = self.opened()
            if (picture.height, picture.width) != self.size:
                raise ValueError("its header tells another size")
            return decode.rgb(picture)


class Stoppable(io.BytesIO):
    """A file whose reads and writes fail once `stop` is set: decoders and encoders work in pieces."""

    def __init__(self, data: bytes = b"", stop: threading.Event | None = None) -> None:
        super().__init__(data)
        self._stop = stop

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes. Raises InterruptedError when `stop` is set."""
        self._check()
        return super().read(size)

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - whatever holds bytes
        """Writes bytes. Raises InterruptedError when `stop` is set."""
        self._check()
        return super().write(data)

    def _check(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise InterruptedError("nobody waits for it any more")


def headed(data: bytes, path: str, max_pixels: int = MAX_PIXELS, stop: threading.Event | None = None) -> File:
    """Reads a file's header. Nothing is decoded yet, and decoding ends early when `stop` is set. Raises InvalidArgument
    for `path`, saying what to change."""
    file = functools.partial(_opened, Stoppable(data, stop), path, max_pixels)
    with _blamed_on(path):
        if (webp := _webp_size(data)) is not None:
            return _webp(file, webp, path, max_pixels)
        picture = file()
        width, height = _decoded_size(picture)
        scans = len(_SCAN.findall(data)) if picture.format in ("JPEG", "MPO") else 0
        if scans > MAX_SCANS:
            raise InvalidArgument.at(path, f"has more than {MAX_SCANS} scans; save the JPEG anew with fewer")
        seconds = width * height * _nanoseconds(picture, scans) / 1e9
        _check(width, height, seconds, scans, path, max_pixels)
        size, most = (picture.height, picture.width), width * height * _bytes(picture, scans)
        return File(lambda: picture, path, size, most, seconds)


def opened(data: bytes, path: str, max_pixels: int = MAX_PIXELS) -> Pil.Image:
    """A file's first picture, as in `lightwell.pictures.decode`. Raises InvalidArgument for `path`, saying what to
    change."""
    return headed(data, path, max_pixels).decoded()


def _webp(file: Callable[[], Pil.Image], size: tuple[int, int], path: str, max_pixels: int) -> File:
    """A WebP, which is opened only when it is decoded, because its decoder allocates memory for all pixels at once."""
    height, width = size
    seconds = _WEBP_SECONDS * height * width
    _check(width, height, seconds, 0, path, max_pixels)
    return File(file, path, size, _WEBP_BYTES * height * width, seconds)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a WebP by its first chunk; None for any other file.

    Source: https://developers.google.com/speed/webp/docs/riff_container
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return height & 0x3FFF, width & 0x3FFF


def _check(width: int, height: int, seconds: float, scans: int, path: str, max_pixels: int) -> None:
    """Raises InvalidArgument for a picture that is too large, or would take too long."""
    if width * height > max_pixels:
        raise InvalidArgument.at(path, f"{width} x {height} pixels are more than {max_pixels:,}; send a smaller image")
    if seconds > MAX_SECONDS:
        advice = f"has {scans} scans; save it anew as baseline" if scans > 1 else "is large; send a smaller one"
        raise InvalidArgument.at(path, f"would take about {seconds:.0f} seconds to decode: it {advice}")


def _opened(file: Stoppable, path: str, max_pixels: int) -> Pil.Image:
    try:
        return decode.opened(file)
    except (Pil.DecompressionBombError, Pil.DecompressionBombWarning):  # Pillow's own limit, of this process
        raise InvalidArgument.at(path, f"its pixels are more than {max_pixels:,}; send a smaller image") from None


@contextmanager
def _blamed_on(path: str) -> Iterator[None]:
    """Turns a decoder's exceptions into InvalidArgument for `path`: the file is bad."""
    try:
        yield
    except UnidentifiedImageError:
        raise InvalidArgument.at(path, f"is no image that can be read; send {', '.join(FORMATS)}") from None
    except InvalidArgument:
        raise
    except Exception as error:
        reason = str(error) or "its parts do not agree"
        raise InvalidArgument.at(path, f"the image cannot be decoded: {reason}; save it anew as PNG or JPEG") from error


def _bytes(picture: Pil.Image, scans: int) -> int:
    """Most bytes of memory per pixel while a picture is decoded, rotated upright and converted to RGB. Pillow stores a
    pixel of several channels in four bytes."""
    plain = picture.mode == "RGB" and not picture.has_transparency_data
    if picture.format in ("JPEG", "MPO"):
        turned = bool(picture.getexif().get(ExifTags.Base.Orientation, 1) != 1)
        return 4 + 4 * turned + 4 * (picture.mode != "RGB") + 6 * (scans > 1)  # coefficients of several scans are kept
    if picture.format == "GIF":
        return 16
    return 8 if plain else 16


def _nanoseconds(picture: Pil.Image, scans: int) -> float:
    """Nanoseconds of decoding per pixel, roughly, as measured on one core of 2.5 GHz."""
    if scans:
        return 15 + 10 * (picture.mode != "RGB") + 3 * scans
    return 60 if picture.format == "PNG" else 20


def rows(pixels: Pixels) -> Tensor:
    """The rows [1, 3, height, width] in [0, 1]."""
    if isinstance(pixels, Tensor):
        return pixels[None]
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def header_size(data: bytes) -> tuple[int, int] | None:
    """Height and width by a file's header, as its pixels are stored; None if the first bytes do not contain them. Fast
    for every file: a PNG's texts are not unpacked, and a TIFF's tags, which may be anywhere, are not read."""
    if data.startswith(_PNG):
        width, height = struct.unpack(">II", data[16:24]) if len(data) >= 24 else (0, 0)
        return (height, width) if width and height else None
    if (webp := _webp_size(data)) is not None:
        return webp
    try:
        with Pil.open(io.BytesIO(data[:HEADER]), formats=SHORT) as picture:
            return picture.height, picture.width
    except Exception:  # any error of a decoder: decoding the file will report it
        return None


def height_width(pixels: Pixels) -> tuple[int, int]:
    """Height and width."""
    return (pixels.shape[1], pixels.shape[2]) if isinstance(pixels, Tensor) else (pixels.height, pixels.width)


def fitted(pixels: Pixels, fit: Fit, path: str) -> tuple[Tensor, Crop]:
    """The rows that a model sees of an image, and their position in it. Raises InvalidArgument as `cropped` does."""
    part, crop = cropped(pixels, fit, path)
    return rows(part).contiguous(), crop


def cropped(pixels: Pixels, fit: Fit, path: str) -> tuple[Pixels, Crop]:
    """The part of an image that a model sees, at the model's size, and its position in the image. Raises
    InvalidArgument for `path` if the image is too long and thin."""
    height, width = height_width(pixels)
    scale = max(fit.resize / min(height, width), fit.size[0] / height, fit.size[1] / width)
    new = (max(fit.size[0], int(height * scale + 1e-6)), max(fit.size[1], int(width * scale + 1e-6)))
    if new[0] * new[1] > MAX_PIXELS:
        raise InvalidArgument.at(path, f"{height} x {width} is too long and thin to be fitted; crop it first")
    top, left = (round((whole - part) / 2) for whole, part in zip(new, fit.size, strict=True))
    scales = height / new[0], width / new[1]
    return _cut(_resized(pixels, new, fit), top, left, fit.size), Crop(scales, (top * scales[0], left * scales[1]))


def _resized(pixels: Pixels, size: tuple[int, int], fit: Fit) -> Pixels:
    if height_width(pixels) == size:
        return pixels
    if isinstance(pixels, Pil.Image) and (fit.antialias or fit.interpolation == "nearest"):
        return pixels.resize(size[::-1], _FILTERS[fit.interpolation])
    if fit.interpolation == "nearest":
        return F.interpolate(rows(pixels), size=size, mode="nearest-exact")[0]
    larger = F.interpolate(
        rows(pixels), size=size, mode=fit.interpolation, antialias=fit.antialias, align_corners=False
    )
    return larger[0].clamp(0, 1)


def _cut(pixels: Pixels, top: int, left: int, size: tuple[int, int]) -> Pixels:
    """The part of that size whose first pixel is at (top, left)."""
    bottom, right = top + size[0], left + size[1]
    return pixels[:, top:bottom, left:right] if isinstance(pixels, Tensor) else pixels.crop((left, top, right, bottom))


def _decoded_size(picture: Pil.Image) -> tuple[int, int]:
    """Width and height of the largest piece that is decoded: the picture, or a TIFF's tiles if these are larger."""
    if not isinstance(picture, TiffImageFile) or TILEWIDTH not in picture.tag_v2:
        return picture.size
    return max(picture.size, (picture.tag_v2[TILEWIDTH], picture.tag_v2[TILELENGTH]), key=math.prod)
