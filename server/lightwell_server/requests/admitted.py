"""An admitted request on its way through the server, until it is over."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from lightwell_server.requests.call import Call

GUESS = 0.1
"""Device seconds that a request is taken to need where nothing like it has run before."""
LONG = 1.0
"""Device seconds from which on a request is long."""


@dataclass(frozen=True)
class Price:
    """What a request is expected to cost in device seconds: `seconds` as such requests have cost lately (an upper bound
    where the method may stop early; None where none has run), and the `least` that one has ever cost. Without them
    there is a `guess`. `kind` tells what is alike but for the number of `steps` asked for (0: the request does not
    say), `family` what is alike in model and method at least. `answer` are the bytes that an answer may have."""

    kind: int = 0
    family: int = 0
    steps: int = 0
    seconds: float | None = None
    least: float = 0.0
    guess: float = GUESS
    answer: int = 0

    @property
    def cost(self) -> float:
        """Device seconds that the request is taken to need."""
        return self.guess if self.seconds is None else self.seconds

    @property
    def long(self) -> bool:
        """Whether the request may hold its place for long; what is not known may."""
        return self.seconds is None or self.seconds > LONG


@dataclass(eq=False)
class AdmittedRequest:
    """`call` is who asks what, `deadline` a moment of the monotonic clock, `watched` whether progress is wanted, `cost`
    the device seconds that it is taken to need by now, which at first are its price's.

    Of its way so far: `attained` device seconds and steps, as far as is known; how often it was begun (`attempts`),
    where it is (`worker`), and how long it waited for a worker (`waited`). A `suspect` was at work when its worker
    ended, and is run with nothing beside it; `crashes` counts the workers that ended under it alone, `kills` those that
    were killed from outside, `near` those that crashed while they held it. `patience` is how long its next answer is
    awaited, while it is; `stopped` if an operator ended it."""

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
        """Has it end at the next moment. The task that answers it must not be cancelled for that: its caller would hear
        of no end."""
        self.stopped = True
        if self.patience is not None:
            self.patience.reschedule(asyncio.get_running_loop().time())

    @property
    def left(self) -> float:
        """Device seconds that it is taken to need still."""
        return max(0.0, self.cost - self.attained)
