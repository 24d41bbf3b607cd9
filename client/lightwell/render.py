"""Draws maps: grey where every pixel has its own value, colours of even steps in lightness elsewhere, two colours
where the sign matters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from lightwell.heatmap import Floats
from lightwell.v1 import types_pb2 as types

Bytes = NDArray[np.uint8]

# Anchors from dark to light, their lightness rising evenly.
_HEAT = np.array(
    [
        (8, 6, 24),
        (43, 14, 82),
        (95, 20, 110),
        (148, 32, 108),
        (199, 52, 84),
        (235, 94, 54),
        (250, 151, 42),
        (250, 209, 86),
        (253, 250, 210),
    ]
)
# Blue below zero, red above, white at zero.
_SIGNS = np.array(
    [(18, 52, 124), (62, 124, 190), (160, 200, 226), (247, 247, 247), (246, 178, 148), (206, 78, 68), (116, 8, 36)]
)
_BRIGHTEST = 99.5
"""The percentile of a map of pixels that is drawn white; single pixels beyond it would leave the rest dark."""


def colored(values: Floats, signed: bool) -> Bytes:
    """A map [h, w] in colours [h, w, 3]: zero to maximum, or with signs from minus to plus the largest magnitude."""
    peak = float(np.abs(values).max()) or 1.0
    share = (values / peak + 1) / 2 if signed else np.clip(values / peak, 0, 1)
    return _mixed(share, _SIGNS if signed else _HEAT)


def grey(values: Floats) -> Bytes:
    """A map [h, w] in greys [h, w, 3]: black is nothing, white is impact."""
    peak = float(np.percentile(np.abs(values), _BRIGHTEST)) or 1.0
    return np.repeat((np.clip(np.abs(values) / peak, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def picture(values: Floats, message: types.Heatmap) -> Pil.Image:
    """A map at the model's input size, drawn as its kind asks for."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    pixels = message.enlargement in (types.ENLARGEMENT_NONE, types.ENLARGEMENT_UNSPECIFIED)
    return Pil.fromarray(grey(values) if pixels and not message.signed else colored(values, message.signed))


def overlay(original: Pil.Image, values: Floats, message: types.Heatmap, placement: types.Placement) -> Pil.Image:
    """A map over the original image, at the place and size where the model saw it. The stronger the map, the less
    transparent."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    heat = picture(values, message)
    peak = float(np.abs(values).max()) or 1.0
    pixels = message.enlargement in (types.ENLARGEMENT_NONE, types.ENLARGEMENT_UNSPECIFIED)
    strength = np.asarray(heat.convert("L")) / 255 if pixels else 0.75 * np.clip(np.abs(values) / peak, 0, 1)
    mask = Pil.fromarray((strength * 255).astype(np.uint8))
    size = (max(1, round(heat.width * placement.scale_x)), max(1, round(heat.height * placement.scale_y)))
    result = original.convert("RGB")
    place = (round(placement.offset_x), round(placement.offset_y))
    result.paste(heat.resize(size, Pil.Resampling.BICUBIC), place, mask.resize(size, Pil.Resampling.BICUBIC))
    return result


def _mixed(share: NDArray[np.floating[Any]], anchors: NDArray[np.int_]) -> Bytes:
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(share, places, anchors[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)
