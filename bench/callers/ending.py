"""What the device still does for callers that have left, or whose deadline has passed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.common.scrape import Scrape, metered
from lightwell import Client, DeadlineError, Style, StyleTransfer
from lightwell.images import to_message

STEPS = 10_000
WATCHED = 0.5
"""Seconds for which the device is watched after the end of a call."""


@dataclass
class Ending:
    """For each call: the device steps that were finished after its end, the one then at work among them; and by how
    many device seconds the server says that they were spared."""

    steps: list[int] = field(default_factory=list)
    saved: list[float] = field(default_factory=list)


def endings(repository: Path, size: int, calls: int = 20) -> dict[str, Ending]:
    """Asks a server style transfers of that size, one at a time: cancels so many and lets as many expire, each at a
    random moment. Raises AssertionError if a call had not come to the device before it ended."""
    found = {"cancelled": Ending(), "expired": Ending()}
    with metered(repository) as (server, scrape), Client(server.address) as client:
        transfers = Transfers(server.address, client, size)
        for _ in range(calls):
            _watch(transfers.cancel, scrape, found["cancelled"])
            _watch(transfers.expire, scrape, found["expired"])
    return found


def _watch(end: Callable[[], None], scrape: Callable[[], Scrape], ending: Ending) -> None:
    before = scrape()
    end()
    then = scrape()
    time.sleep(WATCHED)
    after = scrape()
    assert then.grown(before, "lightwell_steps_total") > 0, "the call ended before its first step"
    ending.steps.append(round(after.grown(then, "lightwell_steps_total")))
    ending.saved.append(after.grown(before, "lightwell_saved_device_seconds_total"))


class Transfers:
    """Style transfers that their caller does not see the end of."""

    def __init__(self, address: str, client: Client, size: int) -> None:
        self._address, self._client, self._rng = address, client, random.Random(0)
        content, style = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
        self._content: NDArray[np.uint8] = content
        self._method = StyleTransfer(styles=[Style(image=to_message(style))], size=size, steps=STEPS)
        self._begun()
        self._usual = self._begun()

    def _begun(self) -> float:
        """Seconds until the third step of a transfer."""
        began = time.monotonic()
        stream = self._client.synthesize(self._method, image=self._content)
        for progress in stream:
            if progress.step == 3:
                break
        stream.cancel()
        return time.monotonic() - began

    def cancel(self) -> None:
        """Leaves one at a random moment after its third step."""
        stream = self._client.synthesize(self._method, image=self._content)
        for progress in stream:
            if progress.step == 3:
                time.sleep(self._rng.uniform(0, self._usual))
                stream.cancel()
                return

    def expire(self) -> None:
        """Lets one come to its deadline. Raises AssertionError if it comes to its end."""
        timeout = self._usual * self._rng.uniform(1, 2)
        with Client(self._address, timeout=timeout) as hurried:
            try:
                hurried.synthesize(self._method, image=self._content).result()
            except DeadlineError:
                return
        raise AssertionError(f"{STEPS} steps were made in {timeout:.2f} s")
