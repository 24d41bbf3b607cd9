"""A server is told to stop under load, and another one takes over."""

from __future__ import annotations

SETTLE = 2.0
"""Seconds for which a server that stops still takes calls."""
