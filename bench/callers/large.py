"""The largest pictures that a server takes by default, of every form, and small as files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image as Pil

from lightwell_server.codec.pictures import MAX_SCANS

SIDE = 7_000
"""Of a square just below the limit of 50 million pixels."""
FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {"quality": 30}),
    "progressive": ("RGB", "JPEG", {"quality": 30, "progressive": True}),
    "png": ("RGB", "PNG", {"compress_level": 1}),
    "rgba": ("RGBA", "PNG", {"compress_level": 1}),
    "png16": ("I;16", "PNG", {"compress_level": 1}),
    "webp": ("RGB", "WEBP", {"quality": 10, "method": 0}),
    "gif": ("P", "GIF", {}),
    "tiff": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("L", "BMP", {}),
}
"""The mode, format and options of each. A BMP is not compressed: it is a grey one, or no message could hold it."""


COLOURS = {"RGB": (60, 120, 180), "RGBA": (60, 120, 180, 200)}
"""Of each mode that has several channels."""


def largest(folder: Path, sides: Mapping[str, int] = dict.fromkeys(FORMS, SIDE)) -> list[Path]:
    """Files of the forms that are named with their sides: a single colour, which takes the same memory as any other
    picture."""
    return [_saved(folder / name, side, *FORMS[name]) for name, side in sides.items()]


def slow(folder: Path, side: int = 3_500) -> Path:
    """A progressive JPEG of nearly as many scans as may be, each of which takes the time of all its pixels: its first
    one, again and again."""
    buffer = io.BytesIO()
    Pil.new("RGB", (side, side), (60, 120, 180)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    first = data.index(b"\xff\xda")
    end = next(found.start() for found in re.finditer(rb"\xff[\xc4\xda\xd9]", data) if found.start() > first)
    path = folder / "slow"
    path.write_bytes(data[:end] + data[first:end] * (MAX_SCANS - data.count(b"\xff\xda")) + data[end:])
    return path


def _saved(path: Path, side: int, mode: str, form: str, options: dict[str, Any]) -> Path:
    Pil.new(mode, (side, side), COLOURS.get(mode, 128)).save(path, form, **options)
    return path
