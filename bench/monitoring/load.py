"""A load to look at: callers that ask one request after the other, among them some that leave, and some that err."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lightwell import Client, GradCam, LightwellError, Occlusion, Pgd, Saliency
from lightwell.demo import SAMPLES

PICTURE = SAMPLES / "crescent.png"
MODEL = "shapes"
PAUSE = 0.5
"""Seconds between two requests of a caller who errs or leaves."""
Asking = Callable[[Client], object]


def _leave(client: Client) -> None:
    """Goes away after the first step of many: what is left of them is saved."""
    stream = client.explain_stream(PICTURE, Occlusion(stride=2), model=MODEL)
    for _ in itertools.islice(stream, 1):
        stream.cancel()


USUAL: dict[str, Asking] = {
    "saliency": lambda client: client.explain(PICTURE, Saliency(), model=MODEL),
    "grad_cam": lambda client: client.explain(PICTURE, GradCam(), model=MODEL),
    "occlusion": lambda client: client.explain(PICTURE, Occlusion(stride=4), model=MODEL),
    "pgd": lambda client: client.synthesize(Pgd(steps=30, stop_early=False), image=PICTURE, model=MODEL).result(),
}
ODD: dict[str, Asking] = {
    "leaving": _leave,
    "no picture": lambda client: client.explain(b"no picture", Saliency(), model=MODEL),
    "no such model": lambda client: client.explain(PICTURE, Saliency(), model="nothing"),
}


@contextmanager
def loaded(address: str) -> Iterator[Counter[str]]:
    """Asks meanwhile. Gives how many requests were answered or failed, by who asks: those who err fail each time."""
    over, ends = threading.Event(), Counter[str]()
    with ThreadPoolExecutor(len(USUAL) + len(ODD)) as threads:
        asking = [
            threads.submit(_ask, address, name, ask, PAUSE if name in ODD else 0.0, over, ends)
            for name, ask in (USUAL | ODD).items()
        ]
        try:
            yield ends
        finally:
            over.set()
    for each in asking:
        each.result()


def _ask(address: str, name: str, ask: Asking, pause: float, over: threading.Event, ends: Counter[str]) -> None:
    with Client(address) as client:
        while not over.wait(pause):
            try:
                ask(client)
            except LightwellError as error:
                ends[f"{name}: {error.reason}"] += 1
            else:
                ends[name] += 1
