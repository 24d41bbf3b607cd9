"""A worker process that never finishes the loading of models called `endless`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from lightwell_server.models import store
from lightwell_server.pool import worker

NAME = "endless"


def main(told: dict[str, Any]) -> None:
    """Exchanges what lifts a file, and serves."""
    real = store.lift

    def lift(path: Path, *arguments: Any) -> Any:  # noqa: ANN401
        if path.parent.parent.name == NAME:
            threading.Event().wait()
        return real(path, *arguments)

    store.lift = lift
    worker.main(told)
