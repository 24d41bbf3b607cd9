"""A random walk that keeps what raises a score: a method that plans queries. Made for tests, 2026."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator

from lightwell_server.contract import Ask, Facts, Frame, Needs, Synthesis, Synthesizing, Target

needs = Needs(planned="queries", early="until_raised")


def hops(
    target: Target,
    facts: Facts,
    rng: Generator,
    *,
    queries: Annotated[int, Interval(ge=1, le=10_000)] = 20,
    until_raised: bool = False,
) -> Synthesizing:
    """A picture [1, 3, H, W], float32; `queries` from 1 to 10,000."""
    x = torch.full((1, 3, *facts.size), 0.5)
    best = first = float("-inf")
    for query in range(queries):
        step = (x + 0.1 * torch.randn(x.shape, generator=rng)).clamp(0, 1) if query else x
        score = float((yield Ask(step, target.score, at=target.at)).score)
        if score > best:
            x, best = step, score
        first = score if query == 0 else first
        yield Frame(query + 1, queries, best, x)
        if until_raised and best > first:
            break
    return Synthesis(x, measures={"raised": best - first})
