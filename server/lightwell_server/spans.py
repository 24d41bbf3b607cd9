"""Sections of a request's time, for its log line and its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """What a request did between two times, in seconds of the monotonic clock, which all processes of a machine
    share."""

    name: str
    began: float
    ended: float
    attributes: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The duration."""
        return self.ended - self.began
