"""Closed outlines of the solid objects, as complex numbers x + iy.

Complex points make turning, mirroring and stretching an outline one multiplication each.
Every outline is centred on its bounding box and scaled so that its farthest point lies at distance 1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.complex128]
"""Corner points of a closed polygon, complex [N]."""

_ANGLES = np.linspace(0.0, 2.0 * np.pi, 120, endpoint=False)


def _polar(radius: NDArray[np.float64], angles: NDArray[np.float64]) -> Outline:
    return np.asarray(radius * np.exp(1j * angles), dtype=np.complex128)


def _regular(corners: int) -> Outline:
    return _polar(np.ones(corners), 2.0 * np.pi * np.arange(corners) / corners)


def _corners(*points: complex) -> Outline:
    return np.array(points, dtype=np.complex128)


def _star() -> Outline:
    return _polar(np.where(np.arange(10) % 2 == 0, 1.0, 0.46), np.pi * np.arange(10) / 5)


def _cross() -> Outline:
    arm = _corners(1 - 0.34j, 1 + 0.34j, 0.34 + 0.34j)
    return np.concatenate([arm * 1j**turn for turn in range(4)])


def _heart() -> Outline:
    t = _ANGLES
    height: Outline = 1j * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return 16 * np.sin(t) ** 3 + height


def _crescent() -> Outline:
    """The unit disc less a disc of radius 0.75 at x = 0.6; fat, so that its middle is part of the object."""
    offset, radius = 0.6, 0.75
    tip = (1 + offset**2 - radius**2) / (2 * offset)
    outer, inner = np.arccos(tip), np.arccos((tip - offset) / radius)
    outside = np.exp(1j * np.linspace(outer, 2 * np.pi - outer, 80))
    inside = offset + radius * np.exp(1j * np.linspace(2 * np.pi - inner, inner, 60))
    return np.concatenate([outside, inside])


def _arrow() -> Outline:
    return _corners(1, 0.05 + 0.8j, 0.05 + 0.33j, -1 + 0.33j, -1 - 0.33j, 0.05 - 0.33j, 0.05 - 0.8j)


def _bolt() -> Outline:
    return _corners(0.5 + 1j, -0.15 + 1j, -0.6 - 0.12j, -0.08 - 0.12j, -0.3 - 1j, 0.62 + 0.28j, 0.12 + 0.28j)


def _drop() -> Outline:
    return np.cos(_ANGLES) + 0.9j * np.sin(_ANGLES) * np.sin(_ANGLES / 2) ** 1.6


def _flower() -> Outline:
    return _polar(0.56 + 0.44 * np.abs(np.cos(3 * _ANGLES)) ** 0.7, _ANGLES)


def _leaf() -> Outline:
    along = np.linspace(-1.0, 1.0, 60)
    edge = along + 0.46j * np.cos(np.pi * along / 2)
    return np.concatenate([edge, edge[::-1].conj()])


SOLIDS: dict[str, Callable[[], Outline]] = {
    "arrow": _arrow,
    "bolt": _bolt,
    "circle": lambda: _regular(120),
    "crescent": _crescent,
    "cross": _cross,
    "drop": _drop,
    "flower": _flower,
    "heart": _heart,
    "leaf": _leaf,
    "square": lambda: _regular(4),
    "star": _star,
    "triangle": lambda: _regular(3),
}
"""Class name to the function that makes its outline, before centring and scaling."""


def _centred(points: Outline) -> Outline:
    middle = (points.real.min() + points.real.max()) / 2 + 0.5j * (points.imag.min() + points.imag.max())
    moved = points - middle
    scaled: Outline = moved / np.abs(moved).max()
    return scaled


def solid(name: str) -> Outline:
    """Return the centred unit outline of the solid class `name`, complex [N]."""
    return _centred(SOLIDS[name]())


def blob(rng: np.random.Generator) -> Outline:
    """Return a smooth irregular unit outline, complex [120]; it carries the textures and is no class by itself."""
    radius = np.ones_like(_ANGLES)
    for wave in (2, 3, 4):
        radius += rng.uniform(0.04, 0.3 / wave) * np.cos(wave * _ANGLES + rng.uniform(0, 2 * np.pi))
    return _centred(_polar(radius, _ANGLES))
