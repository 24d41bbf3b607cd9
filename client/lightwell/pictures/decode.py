"""Decodes pictures as 8-bit RGB. Models and drawings use the same pixels."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import ExifTags, ImageOps, WebPImagePlugin  # noqa: F401
from PIL import Image as Pil
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The imports above register all allowed formats. Otherwise the first request in another format would wait until Pillow
has loaded all its plugins."""
_DEPTH = 24
"""The offset of the bit depth in a PNG's header."""


def opened(file: BinaryIO) -> Pil.Image:
    """A file's first picture, opened by its header and not decoded. Raises Pillow's error for a file in no allowed
    format, and ValueError if its transparent colour cannot be determined."""
    picture: Pil.Image = Pil.open(file, formats=FORMATS)
    if picture.format == "PNG" and "transparency" in picture.info:
        at = file.tell()
        file.seek(_DEPTH)
        _scale_transparency(picture, bits=file.read(1)[0])
        file.seek(at)
    return picture


def rgb(picture: Pil.Image) -> Pil.Image:
    """The picture's pixels: upright, RGB, alpha over white. 16-bit values lose their lower 8 bits. CMYK in a JPEG is
    read as Adobe writes it, 255 for no ink, with Adobe's marker or without. Colour profiles are not applied. Raises
    ValueError for values without a known range, and Pillow's error for a file that cannot be decoded."""
    picture.load()  # a PNG may give its orientation at the end
    _check_range(picture)
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = _high_bytes(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pil.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture)
        return white
    if picture.mode != "RGB" or picture.format == "WEBP":  # WebP's decoder keeps two more copies of the picture
        picture = picture.convert("RGB")
    return picture


def _scale_transparency(picture: Pil.Image, bits: int) -> None:
    """Scales the transparent value of a PNG to 8 bits, as Pillow has scaled its pixels."""
    if picture.mode == "L":
        picture.info["transparency"] *= 255 // (2**bits - 1)
    if picture.mode == "RGB" and bits > 8:
        raise ValueError("a transparent colour of 16 bits cannot be told from its neighbours")


def _check_range(picture: Pil.Image) -> None:
    """Raises ValueError if it is unknown which values are black and white."""
    if picture.mode in ("I", "F"):
        raise ValueError("its values have no known range; 8 bits, or 16 without sign, have one")
    tags = picture.tag_v2 if picture.mode.startswith("I;16") and isinstance(picture, TiffImageFile) else None
    if tags is not None and (tags[BITSPERSAMPLE] != (16,) or tags[PHOTOMETRIC_INTERPRETATION] != 1):
        raise ValueError("grey of more than 8 bits is read with 16 bits and black at zero only")


def _high_bytes(picture: Pil.Image) -> Pil.Image:
    """16-bit grey as 8-bit, with alpha if the file has a transparent value."""
    values = np.asarray(picture)
    grey = Pil.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Pil.fromarray(np.where(values == picture.info["transparency"], np.uint8(0), np.uint8(255))))
    return grey
