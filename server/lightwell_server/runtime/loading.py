"""Limits how many models a device loads at a time, and for how long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lightwell_server.errors import Refused

log = logging.getLogger(__name__)

LOADERS = 2
"""Models that are loaded at a time."""
TOLD = 30.0
"""Seconds between two log lines about a model that is still being loaded."""


@dataclass
class Overdue(Refused):
    """A model that has been loading for too long."""


class Loading:
    """The loads of one device, each of which may take `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._turns = seconds, asyncio.Semaphore(LOADERS)

    @asynccontextmanager
    async def of(self, model: str) -> AsyncIterator[None]:
        """Encloses the loading of a model: waits for a free slot, which does not count towards the timeout, and logs
        how long the loading takes. Raises `Overdue`."""
        async with self._turns:
            telling = asyncio.create_task(_tell(model))
            try:
                async with asyncio.timeout(self._seconds):
                    yield
            except TimeoutError:
                error = Overdue(
                    f"loading it took longer than {self._seconds:g} s; raise --max-load-seconds if it needs more time"
                )
                log.error("model %s is refused: %s", model, error.message)
                raise error from None
            finally:
                telling.cancel()


async def _tell(model: str) -> None:
    seconds = 0.0
    while True:
        await asyncio.sleep(TOLD)
        seconds += TOLD
        log.warning("model %s has been loading for %.0f s", model, seconds)
