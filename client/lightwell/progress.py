"""A progress bar around results as they come, where a person is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def shown(items: Iterable[T], total: int | None, wanted: bool) -> Iterator[T]:
    """Gives the items on, with a bar on standard error if wanted and it is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, total=total, description="explaining", console=Console(stderr=True))
