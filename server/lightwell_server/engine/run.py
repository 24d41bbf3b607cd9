"""A request in execution: its generator, what it waits for, what it has used, and where its events go."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightwell_server.contract import Answer, Ask, Frame, Part, Step, Work
from lightwell_server.errors import LightwellError
from lightwell_server.spans import Span

log = logging.getLogger(__name__)

CHUNK = 8
"""Rows of each step of a reproducible request, regardless of their cost."""
SPANS = 16
"""Spans that are kept of each run."""


@dataclass(frozen=True)
class Done:
    """The method has returned this."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The run is over without a result."""

    error: LightwellError


@dataclass(frozen=True)
class Passed:
    """`done` of the `total` rows that the method asked for at once have been answered."""

    done: int
    total: int


Event = Frame | Passed | Done | Failed


@dataclass(eq=False, slots=True)
class Run:
    """`models` maps roles to models (None is the request's own), `inputs` go with every Ask of its own model. `deliver`
    takes the run's events on the engine's thread; no event follows the end of the run. `deadline` is a time of the
    engine's clock. The device is shared equally between `caller`s. `watched` runs report the rows that are done. `name`
    is for the log, `number` for monitoring. Only the first few `spans` are kept. `ticket` is the one in the queue."""

    method: str
    steps: Generator[Step, Any, Any]
    models: Mapping[str | None, Any]
    deliver: Callable[[Event], None]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    deadline: float = math.inf
    reproducible: bool = False
    caller: str = ""
    attained: float = 0.0
    queued: float = 0.0
    device_steps: int = 0
    watched: bool = False
    name: str = ""
    number: int = 0
    exceptions: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    gone: bool = False
    over: bool = False
    ask: Ask | None = None
    left: int = 0
    ticket: Any = None
    done: float = 0.0
    _answers: list[Answer] = field(default_factory=list)

    def resume(self, reply: Answer | Any) -> Ask | Work | None:  # noqa: ANN401
        """Sends the generator what it waited for. Returns what it waits for next, or None if it is over. Frames are
        delivered on the way. Autograd's mode is set anew each time: a method that yields inside a `no_grad` block must
        not leak it."""
        torch.set_grad_enabled(False)
        try:
            with torch.inference_mode(False):
                step = self.steps.send(reply)
                while isinstance(step, Frame):
                    self.done = step.step / step.steps
                    self.tell(step)
                    step = next(self.steps)
        except StopIteration as end:
            self.finish(Done(end.value))
            return None
        finally:
            torch.set_grad_enabled(True)
        if not isinstance(step, Ask | Work):
            raise TypeError(f"a method yields Ask, Work or Frame, not {type(step).__name__}")
        self.ask = step if isinstance(step, Ask) else None
        self._answers = []
        return step

    def collect(self, answer: Answer, complete: bool) -> Answer | None:
        """Adds the answer to the next rows. Returns the whole answer once it is complete."""
        self._answers.append(answer)
        return Answer.join(self._answers) if complete else None

    def part(self, start: int, stop: int) -> Part:
        """Rows of the present Ask, for a step."""
        assert self.ask is not None
        return Part(self.ask, start, stop, {} if self.ask.model is not None else self.inputs, self.reproducible)

    def took(self, part: tuple[int, int], waited: float, began: float, ended: float) -> None:
        """Records a step with the rows `part` of its Ask: when they were queued, when the step began and when it
        ended."""
        self.queued += began - waited
        self.device_steps += 1
        if len(self.spans) < SPANS:
            rows = {"lightwell.rows": part[1] - part[0]}
            self.spans += [Span("queue", waited, began, rows), Span("step", began, ended, rows)]

    def finish(self, event: Done | Failed) -> None:
        """Ends the run with its last event. A caller that has disconnected gets none."""
        if self.over:
            return
        self.over = True
        self.steps.close()
        if not self.gone:
            self.tell(event)
        # The ticket may stay in a queue for a while; its tensors must not stay in memory.
        self.models, self.inputs, self.ask, self.ticket, self._answers = {}, {}, None, None, []
        self.deliver = lambda event: None

    def tell(self, event: Event) -> None:
        """Delivers an event. If that fails, the caller counts as disconnected, so that the engine's thread goes on."""
        try:
            self.deliver(event)
        except Exception:
            log.exception("an event of %s could not be delivered", self.method)
            self.gone = True
