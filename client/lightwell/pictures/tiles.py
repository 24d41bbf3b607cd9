"""Draws many small pictures side by side with their numbers: the maps of a layer's channels, the weights of its
filters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from lightwell.pictures.colors import Bytes
from lightwell.pictures.heatmap import Floats

LARGEST = 3072
"""The largest side of a picture in pixels; what does not fit is left out."""
_LEAST, _MOST = 56, 224
"""The range of a numbered tile's longer side in pixels: smaller ones are enlarged, larger ones reduced."""
_CELL = 24
"""The side in pixels of tiles in a table with numbers at the edges; smaller if not all fit."""
_GAP = 4
_SIZE, _LINE = 12, 15
"""The height of numbers, and of a line of them, in pixels."""
_EDGE = 36
"""The width in pixels of the edge for numbers."""
_PAPER, _INK = (255, 255, 255), (60, 60, 60)


def maps(values: Floats, numbers: Sequence[int]) -> Pil.Image:
    """Maps [k, h, w] in grey, each scaled from its smallest to its largest value, under its number. What does not fit
    is left out."""
    return _numbered(_rescaled(values, (1, 2)), numbers)[0]


def pictures(values: Floats, numbers: Sequence[int]) -> Pil.Image:
    """Pictures [k, 3, h, w] in [0, 1], each under its number. What does not fit is left out."""
    pixels: Bytes = (np.clip(values, 0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return _numbered(pixels, numbers)[0]


def filters(weights: Floats) -> tuple[Pil.Image, int, int]:
    """The filters [filters, channels, h, w] or [filters, channels] of a layer, floating, each scaled from its smallest
    to its largest value; and how many filters, and channels of each, are shown. Three channels are drawn in colour,
    others in grey. With one or three channels each filter has its number; else there is a row for each filter and a
    tile for each channel."""
    weights = weights.reshape(*weights.shape[:2], *(weights.shape[2:] or (1, 1)))
    values = _rescaled(weights, (1, 2, 3))
    depth = weights.shape[1]
    if depth not in (1, 3):
        return _table(values)
    sheet, shown = _numbered(values[:, 0] if depth == 1 else values.transpose(0, 2, 3, 1), range(len(values)))
    return sheet, shown, depth


def _rescaled(values: Floats, axes: tuple[int, ...]) -> Bytes:
    """Values as uint8, scaled along the axes from their smallest to their largest; constant ones are black."""
    values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    least, largest = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    span = np.where(largest > least, largest - least, 1)
    scaled: Bytes = ((values - least) / span * 255).round().astype(np.uint8)
    return scaled


def _numbered(tiles: Bytes, numbers: Sequence[int]) -> tuple[Pil.Image, int]:
    """Tiles [k, h, w] or [k, h, w, 3], each under its number, in about a square; and how many fit."""
    height, width = _sized(*tiles.shape[1:3])
    down, across = height + _LINE + _GAP, width + _GAP
    most_rows, most_columns = (LARGEST - _GAP) // down, (LARGEST - _GAP) // across
    shown = min(len(tiles), most_rows * most_columns)
    columns = max(math.ceil(shown / most_rows), min(most_columns, math.ceil(math.sqrt(shown * down / across))))
    sheet = Pil.new("RGB", (columns * across + _GAP, math.ceil(shown / columns) * down + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    sharp = height >= tiles.shape[1]
    for i in range(shown):
        left, top = _GAP + i % columns * across, _GAP + i // columns * down
        draw.text((left, top), str(numbers[i]), _INK, font)
        tile = Pil.fromarray(tiles[i])
        scaled = tile.resize((width, height), Pil.Resampling.NEAREST if sharp else Pil.Resampling.BOX)
        sheet.paste(scaled, (left, top + _LINE))
    return sheet, shown


def _sized(height: int, width: int) -> tuple[int, int]:
    """The size of a tile: enlarged by an integer factor, or reduced."""
    longer = max(height, width)
    if longer <= _MOST:
        times = math.ceil(_LEAST / longer)
        return height * times, width * times
    return max(1, height * _MOST // longer), max(1, width * _MOST // longer)


def _table(tiles: Bytes) -> tuple[Pil.Image, int, int]:
    """Tiles [rows, columns, h, w] with the numbers of rows and columns at the edges; and how many of both fit."""
    rows, columns, height, width = tiles.shape
    gap = 0 if height == width == 1 else 3
    times = _times(tiles.shape, gap)
    down, across = height * times + gap, width * times + gap
    rows, columns = min(rows, (LARGEST - _EDGE) // down), min(columns, (LARGEST - _EDGE) // across)
    enlarged = tiles[:rows, :columns].repeat(times, 2).repeat(times, 3)
    framed = np.pad(enlarged, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=255)
    table = Pil.fromarray(framed.transpose(0, 2, 1, 3).reshape(rows * down, columns * across))
    sheet = Pil.new("L", (_EDGE + table.width, _EDGE + table.height), 255)
    sheet.paste(table, (_EDGE, _EDGE))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    for i in range(0, rows, _every(down, _LINE)):
        draw.text((_EDGE - _GAP, _EDGE + i * down + (down - gap) / 2), str(i), 60, font, anchor="rm")
    for j in range(0, columns, _every(across, _EDGE)):
        draw.text((_EDGE + j * across + (across - gap) / 2, _EDGE - _GAP), str(j), 60, font, anchor="mb")
    return sheet, rows, columns


def _times(shape: tuple[int, ...], gap: int) -> int:
    """The factor by which weights are enlarged: large enough for tiles [rows, columns, h, w] to be seen clearly, less
    if not all fit, but never too small to be seen."""
    rows, columns, height, width = shape
    most = max(1, _CELL // max(height, width))
    least = max(1, most // (4 if gap else 8))
    fitting = (
        times
        for times in range(most, least, -1)
        if max(rows * (height * times + gap), columns * (width * times + gap)) <= LARGEST - _EDGE
    )
    return next(fitting, least)


def _every(pitch: int, needed: int) -> int:
    """The step between numbers so that each has room, for tiles at this distance."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100) if step * pitch >= needed)
