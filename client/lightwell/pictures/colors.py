"""Colours of maps: grey for maps of single pixels, a colour scale with even steps for others, two colours for signed
maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwell.pictures.heatmap import Floats

Bytes = NDArray[np.uint8]

# Anchors from black to nearly white. In CIELAB, lightness and colour increase in even steps.
_HEAT = np.array(
    [
        (0, 0, 20),
        (17, 16, 47),
        (35, 23, 75),
        (62, 25, 99),
        (99, 18, 113),
        (130, 24, 107),
        (158, 34, 100),
        (183, 48, 92),
        (206, 64, 83),
        (225, 83, 73),
        (239, 106, 62),
        (247, 132, 53),
        (248, 159, 57),
        (246, 186, 82),
        (246, 209, 121),
        (250, 230, 165),
        (253, 250, 210),
    ]
)
# Blue below zero, red above, nearly white at zero. Both sides are equally light at equal distances from it.
_SIGNS = np.array(
    [
        (13, 44, 144),
        (47, 86, 174),
        (85, 128, 199),
        (133, 169, 219),
        (188, 209, 234),
        (247, 247, 247),
        (236, 199, 185),
        (220, 150, 129),
        (198, 100, 83),
        (165, 48, 61),
        (115, 2, 49),
    ]
)
_STRONGEST = 99.5
"""The percentile of the magnitudes of single pixels that is drawn strongest. Without it a few outliers would leave the
rest dark or pale."""


def shares(values: Floats, single: bool) -> Floats:
    """The values [h, w] of a map, floating, as shares of its strongest, -1 to 1. If the map has `single` pixels, those
    beyond a percentile are clipped. Values that are not finite become 0."""
    values = np.nan_to_num(values, posinf=0, neginf=0).astype(np.float32)
    magnitudes = np.abs(values)
    peak = float(np.percentile(magnitudes, _STRONGEST)) if single else 0.0
    peak = peak or float(magnitudes.max()) or 1.0
    result: Floats = np.clip(values / peak, -1, 1)
    return result


def colored(shares: Floats, signed: bool) -> Bytes:
    """The colours uint8 [h, w, 3] of shares [h, w], floating: 0 to 1, or -1 to 1 if they are signed."""
    return _mixed((shares + 1) / 2, _SIGNS) if signed else _mixed(shares, _HEAT)


def grey(shares: Floats) -> Bytes:
    """The greys uint8 [h, w, 3] of the magnitudes of shares [h, w], floating, from black at 0 to white at 1."""
    return np.repeat((np.abs(shares) * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _mixed(places: NDArray[np.floating[Any]], anchors: NDArray[np.int_]) -> Bytes:
    """Colours at positions from 0 to 1 between the anchors."""
    known = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(places, known, anchors[:, k]).round() for k in range(3)], axis=-1).astype(np.uint8)
