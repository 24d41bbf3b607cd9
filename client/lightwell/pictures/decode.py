"""Pictures as RGB of 8 bits: the same pixels for what a model sees and for what its maps are drawn on."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import ExifTags, ImageOps, WebPImagePlugin  # noqa: F401
from PIL import Image as Pil
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""With the imports above all are known to Pillow; else the first request that is none of the others would wait until
Pillow has loaded all that it has."""
_DEPTH = 24
"""Where a PNG's header has the bits of its values."""


def opened(file: BinaryIO) -> Pil.Image:
    """A file's first picture by its header; nothing is decoded yet. Raises what Pillow does for a file that is none of
    the formats, and ValueError for one whose transparent colour cannot be known."""
    picture: Pil.Image = Pil.open(file, formats=FORMATS)
    if picture.format == "PNG" and "transparency" in picture.info:
        at = file.tell()
        file.seek(_DEPTH)
        _scale_transparency(picture, bits=file.read(1)[0])
        file.seek(at)
    return picture


def rgb(picture: Pil.Image) -> Pil.Image:
    """The picture's pixels: upright, RGB, alpha over white. Of 16 bits the higher 8 are taken. CMYK in a JPEG is read
    as Adobe writes it, 255 for no ink, with its marker or without. Colour profiles are not applied. Raises ValueError
    for values without a known range, and what Pillow does for a file that cannot be decoded."""
    picture.load()  # a PNG may tell at its end how it is turned
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
    if picture.mode != "RGB" or picture.format == "WEBP":  # whose decoder holds two pictures more
        picture = picture.convert("RGB")
    return picture


def _scale_transparency(picture: Pil.Image, bits: int) -> None:
    """Brings the value that a PNG calls transparent to the 8 bits that Pillow has scaled its pixels to."""
    if picture.mode == "L":
        picture.info["transparency"] *= 255 // (2**bits - 1)
    if picture.mode == "RGB" and bits > 8:
        raise ValueError("a transparent colour of 16 bits cannot be told from its neighbours")


def _check_range(picture: Pil.Image) -> None:
    """Raises ValueError for values of which is not known what is black and what is white."""
    if picture.mode in ("I", "F"):
        raise ValueError("its values have no known range; 8 bits, or 16 without sign, have one")
    tags = picture.tag_v2 if picture.mode.startswith("I;16") and isinstance(picture, TiffImageFile) else None
    if tags is not None and (tags[BITSPERSAMPLE] != (16,) or tags[PHOTOMETRIC_INTERPRETATION] != 1):
        raise ValueError("grey of more than 8 bits is read with 16 bits and black at zero only")


def _high_bytes(picture: Pil.Image) -> Pil.Image:
    """Grey of 16 bits as 8, with alpha where the file calls one of the values transparent."""
    values = np.asarray(picture)
    grey = Pil.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Pil.fromarray(np.where(values == picture.info["transparency"], np.uint8(0), np.uint8(255))))
    return grey
