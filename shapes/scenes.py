"""A drawn landscape, the content picture of style transfer.

Lengths inside this module are fractions of the picture's side, so a seed gives the same composition at every size.
"""

import numpy as np
from PIL import Image, ImageDraw

from shapes.colours import SUPERSAMPLE, Colour, Floats, Pixels, finished, palette

_SKY = ((48, 84, 150), (126, 150, 190), (238, 184, 150), (250, 214, 160))
_HILLS = ((0.52, 0.05, (128, 132, 172)), (0.6, 0.035, (98, 134, 140)), (0.69, 0.03, (108, 154, 98)))
"""Level of the ridge, its relief and its colour, from the farthest hill to the nearest."""


def _sky(side: int) -> Image.Image:
    """Paint an evening sky with a glowing sun at (0.68, 0.33)."""
    y, x = np.mgrid[0:side, 0:side] / side
    sky = palette(_SKY, np.clip(y / 0.6, 0, 1))
    far = np.hypot(x - 0.68, y - 0.33)[..., None]
    sky += (np.array([255, 236, 190]) - sky) * 0.7 * np.exp(-((far / 0.2) ** 2))
    sky = np.where(far < 0.085, np.array([255, 240, 196]), sky)
    return Image.fromarray(sky.astype(np.uint8))


def _cloud(draw: ImageDraw.ImageDraw, x: float, y: float, width: float) -> None:
    """Draw a flat row of five puffs around (x, y), in pixels."""
    for puff in np.linspace(-1, 1, 5):
        middle, radius = x + 0.25 * width * puff, (0.17 - 0.09 * abs(puff)) * width
        draw.ellipse((middle - 1.5 * radius, y - radius, middle + 1.5 * radius, y + 0.5 * radius), (250, 234, 222))


def _ridge(rng: np.random.Generator, height: float, relief: float, side: int) -> Floats:
    """Return the level of a hill's ridge over each column, in pixels from the top, float [side]."""
    x = np.linspace(0, 1, side)
    waves = sum(np.sin(2 * np.pi * (k * x + rng.uniform())) / k for k in (0.7, 1.6, 3.1))
    return side * (height + relief * np.asarray(waves))


def _hill(draw: ImageDraw.ImageDraw, ridge: Floats, colour: Colour) -> None:
    side = len(ridge)
    draw.polygon([(0, side), *enumerate(ridge.tolist()), (side, side)], fill=colour)


def _house(draw: ImageDraw.ImageDraw, x: float, y: float, width: float, wall: Colour) -> None:
    """Draw a house standing on (x, y), its left foot, all in pixels: wall, gable roof, chimney, door and windows."""
    top = y - 0.7 * width
    draw.rectangle((x + 0.72 * width, top - 0.52 * width, x + 0.86 * width, top), fill=(112, 58, 50))
    draw.rectangle((x, top, x + width, y + 0.2 * width), fill=wall)
    gable = [(x - 0.14 * width, top), (x + 0.5 * width, top - 0.55 * width), (x + 1.14 * width, top)]
    draw.polygon(gable, fill=(168, 62, 48))
    draw.rectangle((x + 0.4 * width, y - 0.36 * width, x + 0.6 * width, y + 0.2 * width), fill=(92, 58, 44))
    for left in (0.12, 0.68):
        pane = (x + left * width, y - 0.44 * width, x + (left + 0.2) * width, y - 0.22 * width)
        draw.rectangle(pane, fill=(255, 222, 120), outline=(92, 58, 44), width=max(1, int(width / 40)))


def _tree(draw: ImageDraw.ImageDraw, x: float, y: float, height: float) -> None:
    """Draw a fir of three tiers whose foot is at (x, y), all in pixels; its right half is in the shade."""
    draw.rectangle((x - 0.05 * height, y - 0.2 * height, x + 0.05 * height, y), fill=(84, 58, 44))
    for low, half in ((0.15, 0.3), (0.38, 0.24), (0.6, 0.17)):
        foot, tip = y - low * height, y - (low + 0.4) * height
        draw.polygon([(x - half * height, foot), (x, tip), (x + half * height, foot)], (40, 104, 78))
        draw.polygon([(x, foot), (x, tip), (x + half * height, foot)], (28, 78, 66))


def scene(seed: int = 0, size: int = 256) -> Pixels:
    """Draw an evening landscape of hills, sun, clouds, houses and firs: uint8 [size, size, 3]."""
    rng, side = np.random.default_rng(seed), size * SUPERSAMPLE
    canvas = _sky(side)
    draw = ImageDraw.Draw(canvas)
    for x, y in ((0.14, 0.16), (0.38, 0.26), (0.88, 0.13)):
        _cloud(draw, x * side, y * side, 0.3 * side)
    for height, relief, colour in _HILLS:
        _hill(draw, _ridge(rng, height, relief, side), colour)
    meadow = _ridge(rng, 0.8, 0.025, side)
    _hill(draw, meadow, (146, 182, 88))
    for x, width, wall in ((0.16, 0.19, (244, 228, 200)), (0.44, 0.15, (226, 190, 150))):
        _house(draw, x * side, meadow[int((x + width / 2) * side)], width * side, wall)
    for x, height in ((0.07, 0.24), (0.39, 0.17), (0.7, 0.26), (0.8, 0.34), (0.92, 0.28)):
        _tree(draw, x * side, meadow[int(x * side)] + 0.03 * side, height * side)
    return finished(canvas, size)
