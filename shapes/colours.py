"""Colour and resampling helpers shared by the drawing modules."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
"""RGB, each channel 0..255."""

SUPERSAMPLE = 4
"""Demo pictures are drawn this many times larger, then reduced, which smooths their edges."""


def rgb(colour: Floats) -> Colour:
    """Clip a float [3] colour to 0..255 and return it as integers."""
    red, green, blue = (int(channel) for channel in np.clip(colour, 0, 255))
    return red, green, blue


def palette(stops: tuple[Colour, ...], position: Floats) -> Floats:
    """Look up positions in 0..1 on a smooth run through `stops`: [...] to RGB [..., 3] in 0..255."""
    table, knots = np.array(stops, dtype=np.float64), np.linspace(0, 1, len(stops))
    return np.stack([np.interp(position, knots, table[:, channel]) for channel in range(3)], axis=-1)


def finished(canvas: Image.Image, size: int) -> Pixels:
    """Reduce a supersampled canvas to uint8 [size, size, 3]."""
    return np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS))
