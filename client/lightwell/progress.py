"""A progress bar around an iterable, where a person is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")


def shown(items: Iterable[T], wanted: bool) -> Iterator[T]:
    """Gives the items on, with a bar on standard error if wanted and it is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    total = len(items) if isinstance(items, Sized) else None
    yield from track(items, total=total, description="explaining", console=Console(stderr=True))
