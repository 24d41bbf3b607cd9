"""Hides torch's warnings about file formats while a file is lifted."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LOCK = threading.Lock()
_filters = ExitStack()
_blocks = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses within the block the deprecation of TorchScript, which does not concern the user of a file, and the
    warnings of the code inside a file. Python's warning filters belong to the process, so the first of several threads
    sets them, and the last one restores the previous ones."""
    global _blocks
    with _LOCK:
        if not _blocks:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
            warnings.filterwarnings("ignore", module=r"code/__torch__")
            # torch 2.6 warns of each constant in a program.
            warnings.filterwarnings(
                "ignore", r"Attempted to insert a get_attr Node|Node \S+ target \S+ .* does not ref"
            )
        _blocks += 1
    try:
        yield
    finally:
        with _LOCK:
            _blocks -= 1
            if not _blocks:
                _filters.close()
