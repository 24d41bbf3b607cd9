"""Who may come in at all, asked before a request is read; and how fast one caller is told that it may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lightwell_server.errors import Overloaded

REFUSALS = 20
"""Of one caller in a second. Who asks on and on would else have the server busy with saying no, and keep those waiting
who come behind it."""
LONGEST = 5.0
"""Seconds that a refusal waits at most."""
KNOWN = 1024
"""Callers of whom is known when they were refused last, before those who have not been for a while are forgotten."""


class Door:
    """`check` raises `Overloaded` for a caller's name if nobody of that name may come in now."""

    def __init__(self, check: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._check, self._clock = check, clock
        self._next: dict[str, float] = {}

    async def enter(self, caller: str, left: float | None) -> None:
        """Returns if the caller may come in. Raises `Overloaded` if not, after a while if it was told so often: at most
        after half of the seconds that its call has `left`."""
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
