"""Pictures of one drawn object on a cluttered background, with its class and its mask.

The object is a solid shape in one colour or an irregular blob with a two-colour texture. Lengths inside this
module are fractions of the picture's side, so a seed gives the same composition at every size.
"""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from shapes.colours import Colour, Floats, Pixels, rgb
from shapes.outlines import SOLIDS, Outline, blob, solid

Mask = NDArray[np.bool_]

TEXTURES = ("checkerboard", "dots", "stripes")
CLASSES: tuple[str, ...] = tuple(sorted((*SOLIDS, *TEXTURES)))
"""Class names; the position of a name is its class index."""

_SUPERSAMPLE = 3


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    """Return a random RGB colour, float [3] in 0..255."""
    return 255.0 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)))


def _distinct_colour(rng: np.random.Generator, others: list[Floats]) -> Floats:
    """Return the one of six vivid colours that is farthest from its nearest neighbour in `others`."""
    choices = [_colour(rng, (0.45, 1.0), (0.25, 1.0)) for _ in range(6)]
    return max(choices, key=lambda choice: min(float(np.linalg.norm(choice - other)) for other in others))


def _image(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _polygon(draw: ImageDraw.ImageDraw, outline: Outline, side: int, colour: Colour | int) -> None:
    """Fill `outline`, given in fractions of the side with y pointing down."""
    draw.polygon([(point.real * side, point.imag * side) for point in outline], fill=colour)


def _wash(rng: np.random.Generator, side: int, colours: list[Floats]) -> Image.Image:
    """Blend two colours along a random direction with cloudy noise, RGB [side, side]."""
    clouds = rng.uniform(-0.35, 0.35, (6, 6)).astype(np.float32)
    cloud = np.asarray(Image.fromarray(clouds).resize((side, side), Image.Resampling.BICUBIC))
    angle, ramp = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, side)
    slope = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    blend = np.clip(0.5 + slope + cloud, 0, 1)[..., None]
    return _image(colours[0] * (1 - blend) + colours[1] * blend)


def _clutter(rng: np.random.Generator, canvas: Image.Image, colours: list[Floats]) -> None:
    """Strew thin lines, arcs and small ragged scraps, all too thin or too small to pass for an object."""
    draw, side = ImageDraw.Draw(canvas), canvas.width
    for _ in range(rng.integers(6, 16)):
        tint = rgb(colours[rng.integers(2)] + rng.uniform(-70, 70, 3))
        width = max(1, int(side * rng.uniform(0.005, 0.015)))
        x, y, reach = rng.uniform(0, side), rng.uniform(0, side), side * rng.uniform(0.1, 0.4)
        angle = rng.uniform(0, 360)
        if rng.uniform() < 0.5:
            dx, dy = reach * np.cos(np.radians(angle)), reach * np.sin(np.radians(angle))
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=tint, width=width)
        else:
            draw.arc((x - reach, y - reach, x + reach, y + reach), angle, angle + 80, fill=tint, width=width)
    for _ in range(rng.integers(10, 26)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
        scrap = rng.uniform(0.012, 0.045, angles.size) * np.exp(1j * angles)
        tint = rgb(colours[rng.integers(2)] + rng.uniform(-110, 110, 3))
        _polygon(draw, scrap + complex(*rng.uniform(0, 1, 2)), side, tint)


def _place(rng: np.random.Generator, name: str) -> Outline:
    """Return the object's outline, turned, slightly stretched and moved, in fractions of the side."""
    textured = name in TEXTURES
    radius = rng.uniform(0.18 if textured else 0.14, 0.3)
    outline = blob(rng) if textured else solid(name)
    if rng.uniform() < 0.5:
        outline = outline.conj()
    stretched: Outline = outline.real * rng.uniform(0.9, 1.0) + 1j * outline.imag * rng.uniform(0.9, 1.0)
    turned: Outline = stretched * np.exp(1j * rng.uniform(0, 2 * np.pi))
    return radius * turned + complex(*rng.uniform(radius, 1 - radius, 2))


def _texture(rng: np.random.Generator, name: str, side: int) -> Floats:
    """Return the share of the second colour at each point of a regular texture, float [side, side] in {0, 1}."""
    period, angle = rng.uniform(0.085, 0.13), rng.uniform(0, np.pi)
    grid = np.arange(side) / (side * period)
    phase = rng.uniform(0, 1, 2)
    u = np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None] + phase[0]
    v = np.cos(angle) * grid[:, None] - np.sin(angle) * grid[None, :] + phase[1]
    if name == "stripes":
        share: Mask = u % 1 < 0.5
    elif name == "dots":
        share = np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.32
    else:
        share = (u % 1 < 0.5) ^ (v % 1 < 0.5)
    return share.astype(np.float64)


def _fill(rng: np.random.Generator, name: str, side: int, colours: list[Floats]) -> Image.Image:
    """Paint the whole canvas with the object's colour, softly shaded, or with its texture."""
    first = _distinct_colour(rng, colours)
    shade = 1 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, side)[:, None, None]
    if name not in TEXTURES:
        return _image(first * shade * np.ones((side, side, 1)))
    second = _distinct_colour(rng, [*colours, first])
    share = _texture(rng, name, side)[..., None]
    return _image((first * (1 - share) + second * share) * shade)


def picture(seed: int, size: int = 96, label: int | None = None) -> tuple[Pixels, int, Mask]:
    """Draw one object on a cluttered background.

    `seed` decides everything, also the class unless `label` (0 .. len(CLASSES) - 1) names it; `size` is the side
    in pixels. Returns the RGB picture, uint8 [size, size, 3], the class index, and the object's mask,
    bool [size, size], true where the object covers at least half of the pixel.
    """
    rng = np.random.default_rng(seed)
    drawn = int(rng.integers(len(CLASSES)))
    index = drawn if label is None else label
    name, side = CLASSES[index], size * _SUPERSAMPLE
    colours = [_colour(rng, (0.05, 0.6), (0.25, 0.95)) for _ in range(2)]
    canvas = _wash(rng, side, colours)
    _clutter(rng, canvas, colours)
    alpha = Image.new("L", (side, side))
    _polygon(ImageDraw.Draw(alpha), _place(rng, name), side, 255)
    canvas.paste(_fill(rng, name, side, colours), mask=alpha)
    small = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    mask = np.asarray(alpha.resize((size, size), Image.Resampling.BOX)) >= 128
    noisy = small + rng.normal(0, rng.uniform(0, 6), small.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), index, mask
