"""A progress bar for results, shown on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int | None, wanted: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, if `wanted` and if that is a terminal. Gives the function that advances it by
    one."""
    if not wanted or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("explaining", total=total)
        yield lambda: progress.advance(task)
