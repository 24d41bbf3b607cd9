"""Drawn pictures with known objects, and the small classifier trained on them."""

from shapes.draw import CLASSES, picture
from shapes.paintings import mosaic, painting
from shapes.scenes import scene

__all__ = ["CLASSES", "mosaic", "painting", "picture", "scene"]
