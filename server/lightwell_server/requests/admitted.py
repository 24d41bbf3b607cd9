"""An admitted request, until it is over."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from lightwell_server.requests.call import Call

GUESS = 0.1
"""Predicted device seconds of a request if nothing like it has run before."""
LONG = 1.0
"""A request with more predicted device seconds is long."""


@dataclass(frozen=True)
class Price:
    """The predicted cost of a request in device seconds: `seconds` as such requests have cost recently (an upper bound
    where the method may stop early; None if none have run), and the `least` that one has cost. Without `seconds` the
    `guess` applies. `kind` identifies requests that differ only in the number of `steps` (0: the request does not say),
    `family` those of the same model and method. `answer` is the predicted size of the answer in bytes."""

    kind: int = 0
    family: int = 0
    steps: int = 0
    seconds: float | None = None
    least: float = 0.0
    guess: float = GUESS
    answer: int = 0

    @property
    def cost(self) -> float:
        """Predicted device seconds."""
        return self.guess if self.seconds is None else self.seconds

    @property
    def long(self) -> bool:
        """Whether the request may occupy its place for long. Without a prediction it may."""
        return self.seconds is None or self.seconds > LONG


@dataclass(eq=False)
class AdmittedRequest:
    """`call` is the call that made it, `deadline` a time of the monotonic clock, `watched` whether progress is wanted,
    `cost` the current prediction of its device seconds, which at first is its price's.

    Its progress so far: `attained` device seconds and steps, as last reported; how often it was started (`attempts`),
    where it runs (`worker`), and how long it waited for a worker (`waited`). A `suspect` was executing when its worker
    ended, and runs alone on a worker. `crashes` counts the workers that ended while they ran it alone, `kills` those
    that were killed from outside, `near` those that crashed while they held it. `patience` is the timeout of its next
    response, while that is awaited. `stopped` says whether an operator stopped it.
    """

    call: Call
    number: int = 0
    version: str = ""
    deadline: float = math.inf
    watched: bool = False
    price: Price = field(default_factory=Price)
    cost: float = field(init=False)
    began: float = field(default_factory=time.monotonic)
    attained: float = 0.0
    step: int = 0
    steps: int = 0
    attempts: int = 0
    worker: int | None = None
    waited: float = 0.0
    suspect: bool = False
    crashes: int = 0
    kills: int = 0
    near: int = 0
    patience: asyncio.Timeout | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        self.cost = self.price.cost

    def stop(self) -> None:
        """Ends it at the next opportunity. The task that runs it is not cancelled, because its caller would then get no
        status."""
        self.stopped = True
        if self.patience is not None:
            self.patience.reschedule(asyncio.get_running_loop().time())

    @property
    def left(self) -> float:
        """Predicted device seconds that it still needs."""
        return max(0.0, self.cost - self.attained)
