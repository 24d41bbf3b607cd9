"""What requests were predicted to cost, beside what they have cost."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.callers.crowd import p50
from bench.common.proof import Counts, Proof
from bench.common.scrape import Scrape, metered
from bench.common.table import Goal, ms, table
from bench.fault.overload import ONE, SIDE, light
from lightwell import AsyncClient, GradCam, Occlusion, Pgd, Saliency, Style, StyleTransfer
from lightwell.images import to_message

IN_FLIGHT = 4
WARM = 6
"""Requests of each kind before any is looked at."""
Pairs = dict[str, list[tuple[float, float]]]
"""Predicted and used device seconds of answers, by what was asked."""


def mix() -> dict[str, Any]:
    """Methods whose steps do not depend on the picture."""
    style = Style(image=to_message(_noise(1)))
    return {
        "saliency": Saliency(),
        "grad_cam": GradCam(),
        "occlusion, stride 28": Occlusion(stride=28),
        "occlusion, stride 14": Occlusion(stride=14),
        "pgd, 10 steps": Pgd(steps=10, stop_early=False),
        "pgd, 40 steps": Pgd(steps=40, stop_early=False),
        "style_transfer, 64": StyleTransfer(styles=[style], size=64, steps=10),
        "style_transfer, 96": StyleTransfer(styles=[style], size=96, steps=10),
    }


def prove(seconds: float) -> Proof:
    """Asks a steady mix for so many seconds, once each kind is known."""
    with tempfile.TemporaryDirectory() as folder:
        repository = light(Path(folder))
        with metered(repository, *ONE) as (server, scrape):
            pairs, before = asyncio.run(_ask(server.address, seconds, scrape))
            after = scrape()
    errors = {name: [abs(told - used) / used for told, used in found] for name, found in pairs.items()}
    every = [error for found in errors.values() for error in found]
    rows = [
        (name, str(len(found)), ms(p50([used for _, used in pairs[name]])), f"{p50(found):.2f}", f"{_p95(found):.2f}")
        for name, found in errors.items()
    ]
    notes = [
        f"p95 by the server's own histogram: {_quantile(before, after, 0.95)}",
        *table(("asked", "answers", "device", "median error", "p95"), rows).splitlines(),
    ]
    counts = Counts(len(every), len(every), 0, 0, 0)
    return Proof("prediction", counts, [Goal("prediction: p95 of the error", _p95(every), 0.4, False)], notes)


async def _ask(address: str, seconds: float, scrape: Any) -> tuple[Pairs, Scrape]:  # noqa: ANN401 - of no arguments
    """Asks all kinds so often that they are known, and then at random. Returns what was asked at random, and the
    server's figures before."""
    methods, found, rng = mix(), defaultdict(list), random.Random(0)
    async with AsyncClient(address) as client:
        for _ in range(WARM):
            await asyncio.gather(*(_priced(client, method) for method in methods.values()))
        before = scrape()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds

        async def one_after_the_other() -> None:
            while loop.time() < until:
                name = rng.choice(list(methods))
                told, used = await _priced(client, methods[name])
                assert told is not None, f"{name} has no price after {WARM} answers"
                found[name].append((told, used))

        await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
    return dict(sorted(found.items())), before


async def _priced(client: AsyncClient, method: Any) -> tuple[float | None, float]:  # noqa: ANN401 - any method
    """A request's predicted and used device seconds."""
    if isinstance(method, Pgd | StyleTransfer):
        seen: Any = await client.synthesize(method, image=_noise(0)).result()
    else:
        seen = await client.explain(_noise(0), method, fit="exact")
    provenance = seen.provenance
    told = provenance.predicted_seconds if provenance.HasField("predicted_seconds") else None
    return told, provenance.device_seconds


def _noise(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)


def _p95(values: list[float]) -> float:
    return float(np.percentile(values, 95))


def _quantile(before: Scrape, after: Scrape, share: float) -> str:
    """Between which bounds a quantile of the server's histogram of errors lies."""
    counts: dict[float, float] = defaultdict(float)
    for scrape, sign in ((after, 1), (before, -1)):
        for sample in scrape.samples:
            if sample.name == "lightwell_prediction_error_ratio_bucket":
                counts[float(sample.labels["le"])] += sign * sample.value
    bounds = sorted(counts)
    wanted = share * counts[bounds[-1]]
    reached = next(i for i, bound in enumerate(bounds) if counts[bound] >= wanted)
    low = bounds[reached - 1] if reached else 0.0
    return f"{low:g} to {bounds[reached]:g} of {counts[bounds[-1]]:.0f} answers"
