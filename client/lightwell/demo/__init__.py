"""`lightwell demo` and its page."""

from lightwell.demo.main import PAINTING, SAMPLES, SCENE, run

__all__ = ["PAINTING", "SAMPLES", "SCENE", "run"]
