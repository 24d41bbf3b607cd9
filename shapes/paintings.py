"""Painting-like pictures, the style pictures of style transfer.

Lengths inside this module are fractions of the picture's side, so a seed gives the same composition at every size.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from shapes.colours import SUPERSAMPLE, Floats, Pixels, finished, palette, rgb

Points = NDArray[np.complex128]
Eddy = tuple[complex, float, float]
"""Centre, reach and sense of rotation (+1 or -1)."""

_NIGHT = ((14, 22, 66), (28, 62, 138), (52, 116, 178), (122, 178, 196), (240, 214, 130), (247, 166, 40))
_WARM = ((110, 26, 52), (190, 52, 50), (232, 124, 52), (244, 200, 104), (72, 150, 140), (28, 74, 104))
_GROUT = np.array([46.0, 38.0, 40.0])


def _eddies(rng: np.random.Generator) -> list[Eddy]:
    places = ((0.3 + 0.3j, 0.2, 1), (0.77 + 0.24j, 0.13, -1), (0.67 + 0.7j, 0.22, 1), (0.16 + 0.8j, 0.12, -1))
    return [(centre + complex(*rng.uniform(-0.04, 0.04, 2)), reach, turn) for centre, reach, turn in places]


def _flow(eddies: list[Eddy], points: Points) -> tuple[Points, Floats]:
    """Return the unit direction of the flow at each point and the closeness, 0..1, to the nearest eddy."""
    drift = 0.5 * np.sin(5 * points.real + 2)
    flow: Points = 0.6 * (np.cos(drift) + 1j * np.sin(drift))
    near: Floats = np.zeros(points.shape)
    for centre, reach, turn in eddies:
        offset = points - centre
        pull = np.exp(-((np.abs(offset) / reach) ** 2))
        flow = flow + 3j * turn * pull * offset / np.maximum(np.abs(offset), 1e-9)
        near = np.maximum(near, pull)
    return flow / np.maximum(np.abs(flow), 1e-9), near


def _stroke(draw: ImageDraw.ImageDraw, path: Points, tint: Floats, width: float) -> None:
    """Draw one ridge of paint along `path`, in pixels: a dark lower edge, the body, a light upper edge."""
    for shift, gain, share in ((0.22, 0.72, 1.0), (0.0, 1.0, 0.9), (-0.2, 1.18, 0.3)):
        points = [(point.real, point.imag + shift * width) for point in path]
        draw.line(points, fill=rgb(tint * gain), width=max(1, int(width * share)), joint="curve")


def painting(seed: int = 0, size: int = 256) -> Pixels:
    """Paint curved strokes that follow eddies, from broad to fine, in night blues and gold: uint8 [size, size, 3]."""
    rng, side = np.random.default_rng(seed), size * SUPERSAMPLE
    eddies = _eddies(rng)
    canvas = Image.new("RGB", (side, side), _NIGHT[1])
    draw = ImageDraw.Draw(canvas)
    for centre, *_ in eddies:  # strokes circle the very centre without covering it
        draw.circle((centre.real * side, centre.imag * side), 0.03 * side, fill=_NIGHT[-1])
    for count, width in ((1500, 0.028), (2600, 0.017), (2200, 0.01)):
        path: list[Points] = [rng.uniform(-0.05, 1.05, count) + 1j * rng.uniform(-0.05, 1.05, count)]
        near = _flow(eddies, path[0])[1]
        bands = 0.1 * np.sin(22 * near) + 0.1 * np.sin(9 * path[0].imag + 4 * path[0].real)
        tints = palette(_NIGHT, np.clip(0.18 + 0.8 * near + bands + rng.normal(0, 0.07, count), 0, 1))
        tints += rng.normal(0, 12, (count, 1))
        for _ in range(7):
            path.append(path[-1] + 0.011 * _flow(eddies, path[-1])[0])
        for stroke, tint in zip(np.stack(path, axis=1) * side, tints, strict=True):
            _stroke(draw, stroke, tint, width * side)
    return finished(canvas, size)


def mosaic(seed: int = 0, size: int = 256, tiles: int = 22) -> Pixels:
    """Lay about tiles x tiles irregular tiles in warm rings, with dark joints between them: uint8 [size, size, 3]."""
    rng, side = np.random.default_rng(seed), 2 * size
    places = np.moveaxis(np.mgrid[0:tiles, 0:tiles], 0, -1) + rng.uniform(0.15, 0.85, (tiles, tiles, 2))
    rings = np.hypot(*np.moveaxis(places / tiles - (0.45, 0.55), -1, 0))
    tints = palette(_WARM, np.clip((1.9 * rings + rng.normal(0, 0.05, rings.shape)) % 1.0, 0, 1))
    tints += rng.normal(0, 14, (tiles, tiles, 1))
    y, x = np.mgrid[0:side, 0:side] * (tiles / side)
    nearest, second, colour = np.full(x.shape, np.inf), np.full(x.shape, np.inf), np.zeros((side, side, 3))
    for place, tint in zip(places.reshape(-1, 2), tints.reshape(-1, 3), strict=True):
        far = np.hypot(y - place[0], x - place[1])
        second = np.minimum(second, np.maximum(far, nearest))
        colour[far < nearest] = tint
        nearest = np.minimum(nearest, far)
    glaze = colour * (1.12 - 0.25 * nearest)[..., None]
    pixels = np.where((second - nearest < 0.14)[..., None], _GROUT, glaze)
    return finished(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), size)
