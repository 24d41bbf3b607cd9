"""Load shedding: requests that would be refused are refused before they are read, at a limited rate per caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lightwell_server.errors import Overloaded

REFUSALS = 20
"""Refusals per second and caller. Otherwise a caller that retries at once would keep the server busy with refusals, and
delay other callers."""
LONGEST = 5.0
"""Longest delay of a refusal in seconds."""
KNOWN = 1024
"""Callers whose last refusal is remembered; beyond that, old ones are forgotten."""


class LoadShedder:
    """`check` raises `Overloaded` for the name of a caller whose requests would be refused now."""

    def __init__(self, check: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._check, self._clock = check, clock
        self._next: dict[str, float] = {}

    async def admit(self, caller: str, left: float | None) -> None:
        """Returns if a request of the caller may be read. Otherwise raises `Overloaded`, after a delay if the caller
        was refused often: at most half of the seconds that its call has `left`."""
        try:
            self._check(caller)
        except Overloaded:
            await asyncio.sleep(min(self._delay(caller), LONGEST if left is None else max(0.0, left / 2)))
            raise

    def _delay(self, caller: str) -> float:
        """Seconds until the caller's next refusal is due."""
        now = self._clock()
        if len(self._next) >= KNOWN:
            self._next = {name: due for name, due in self._next.items() if due > now}
        due = min(max(now, self._next.get(caller, now)), now + LONGEST)
        self._next[caller] = due + 1 / REFUSALS
        return due - now
