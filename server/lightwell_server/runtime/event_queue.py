"""The queue of a run's events from the engine's thread to the event loop's. It is bounded: progress that a slow reader
has not read is replaced by newer progress, pictures first, for they are large."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from lightwell_server.contract import Frame
from lightwell_server.engine.run import Event, Passed

MESSAGES = 1000
"""Most events in the queue."""
PICTURES = 16
"""Most pictures in the queue."""


class EventQueue:
    """The events of one run, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[Event] = deque()
        self._pictures = 0
        self._there = asyncio.Event()

    def put(self, event: Event) -> None:
        """Adds an event, from the engine's thread."""
        self._loop.call_soon_threadsafe(self._add, event)

    async def get(self) -> Event:
        """The next event."""
        while not self._events:
            self._there.clear()
            await self._there.wait()
        event = self._events.popleft()
        self._pictures -= _drawn(event)
        return event

    def _add(self, event: Event) -> None:
        if isinstance(event, Frame) and _drawn(event) and self._pictures >= PICTURES:
            event = replace(event, image=None)
        full = len(self._events) >= MESSAGES and isinstance(event, Frame | Passed)
        if full and not _drawn(self._events[-1]):
            self._events.pop()
        self._events.append(event)
        self._pictures += _drawn(event)
        self._there.set()


def _drawn(event: Event) -> bool:
    return isinstance(event, Frame) and event.image is not None
