"""Resolved requests: all defaults filled in, images left out."""

from __future__ import annotations

from typing import Any

from lightwell_server.catalog import Request


def restore(resolved: Any, asked: Request) -> None:  # noqa: ANN401 - of the request's own type
    """Puts back into a resolved request what was removed for the device."""
    resolved.image.fit = asked.image.fit
    resolved.output.CopyFrom(asked.output)
    if not asked.HasField("output"):
        resolved.ClearField("output")
