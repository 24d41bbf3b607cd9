"""Lightwell's server: explains image models over gRPC."""

from importlib.metadata import version

__version__ = version("lightwell")
