"""Draws results of methods: maps, alone and over the original image, and objects cut out of it."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw

from lightwell.pictures import colors
from lightwell.pictures.heatmap import Floats
from lightwell.v1 import types_pb2 as types

_OPAQUE = 0.75
"""The opacity of the strongest positions of a coarse map."""
_DOT, _MARK = 1 / 100, (220, 40, 40)
"""A dot's radius as a share of the image's longer side, and its colour."""
_AROUND = 0.25
"""The share of the brightness that is left around an object."""


def picture(values: Floats, message: types.Heatmap) -> Pil.Image:
    """A map [H, W] at the model's input size, drawn by its kind."""
    return Pil.fromarray(_drawn(colors.shares(values, single(message)), message))


def overlay(original: Pil.Image, values: Floats, message: types.Heatmap, placement: types.Placement) -> Pil.Image:
    """A map over the original image, at the position and size at which the model saw it. Stronger values are more
    opaque."""
    shares = colors.shares(values, single(message))
    strength = np.abs(shares) * (1 if single(message) else _OPAQUE)
    result = original.convert("RGB")
    heat, mask = Pil.fromarray(_drawn(shares, message)), Pil.fromarray((strength * 255).round().astype(np.uint8))
    paste(result, heat, placement, mask)
    return result


def cutout(original: Pil.Image, mask: Floats, placement: types.Placement) -> Pil.Image:
    """The object of a mask [H, W] of zeros and ones, cut out of the original image: RGBA of the image's size,
    transparent outside the object."""
    alpha = _alpha(original, mask, placement)
    # Transparent pixels become black, because some programs ignore alpha.
    result = Pil.composite(original.convert("RGB"), Pil.new("RGB", original.size), alpha.point(bool, "1"))
    result.putalpha(alpha)
    return result


def shown(original: Pil.Image, mask: Floats, placement: types.Placement) -> Pil.Image:
    """The object of a mask [H, W] of zeros and ones in its image, with everything else grey and dark."""
    original = original.convert("RGB")
    around = original.convert("L").point(lambda value: value * _AROUND).convert("RGB")
    return Pil.composite(original, around, _alpha(original, mask, placement))


def dots(image: Pil.Image, points: Floats, placement: types.Placement) -> Pil.Image:
    """Points [n, 2], rows and columns in pixels of the model's input, as dots on an image."""
    result = image.convert("RGB")
    draw, radius = ImageDraw.Draw(result), max(2, round(max(result.size) * _DOT))
    for row, column in points[:, :2]:
        x = placement.offset_x + (column + 0.5) * placement.scale_x
        y = placement.offset_y + (row + 0.5) * placement.scale_y
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_MARK, outline="white")
    return result


def alone(size: tuple[int, int], values: Floats, message: types.Heatmap, placement: types.Placement) -> Pil.Image:
    """A map by itself, at its position in an image of a size (width, height), surrounded by the colour of zero."""
    nothing = _drawn(np.zeros((1, 1), np.float32), message)[0, 0]
    result = Pil.new("RGB", size, tuple(nothing.tolist()))
    paste(result, picture(values, message), placement)
    return result


def on_white(picture: Pil.Image) -> Pil.Image:
    """A picture without transparency, on white."""
    if picture.mode != "RGBA":
        return picture
    return Pil.alpha_composite(Pil.new("RGBA", picture.size, "white"), picture).convert("RGB")


def single(message: types.Heatmap) -> bool:
    """Whether the map has a value for every pixel."""
    return message.enlargement in (types.ENLARGEMENT_NONE, types.ENLARGEMENT_UNSPECIFIED)


def paste(onto: Pil.Image, image: Pil.Image, placement: types.Placement, mask: Pil.Image | None = None) -> None:
    """Puts an image of the model's size where the model saw it."""
    size = (max(1, round(image.width * placement.scale_x)), max(1, round(image.height * placement.scale_y)))
    place = (round(placement.offset_x), round(placement.offset_y))
    resized = mask.resize(size, Pil.Resampling.BICUBIC) if mask else None
    onto.paste(image.resize(size, Pil.Resampling.BICUBIC), place, resized)


def _alpha(original: Pil.Image, mask: Floats, placement: types.Placement) -> Pil.Image:
    """The opacity of each pixel of the original, 0 to 255; the mask's edges become smooth."""
    alpha = Pil.new("L", original.size)
    paste(alpha, Pil.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8)), placement)
    return alpha


def _drawn(shares: Floats, message: types.Heatmap) -> colors.Bytes:
    grey = single(message) and not message.signed
    return colors.grey(shares) if grey else colors.colored(shares, message.signed)
