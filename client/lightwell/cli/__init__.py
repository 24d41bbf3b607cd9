"""The command line."""

from lightwell.cli.app import app

__all__ = ["app"]
