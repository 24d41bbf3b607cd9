"""A request at work: its generator, what it waits for, what it has used, and where its events go."""

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
"""Rows of each step of a reproducible request, whatever rows cost."""
SPANS = 16
"""Spans of a run that are kept."""


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
    """`models` resolves roles to models (None is the request's own), `inputs` go with every Ask of its own model.
    `deliver` takes the run's events, on the engine's thread; a run that is over delivers nothing more. `deadline` is
    a moment of the engine's clock, `caller` who has a share of the device. `watched` runs tell the rows they have
    passed; `name` is for the log, `number` for who looks at the engine. The first few `spans` are kept, and the
    `ticket` that is in line."""

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
        """Sends the generator what it waited for; returns what it waits for next, or None if it is over. Frames are
        delivered on the way. Autograd's mode is set anew each time: a method that yields inside a `no_grad` block
        must not leak it."""
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
        """Takes the answer to the next rows; returns the whole answer once it is complete."""
        self._answers.append(answer)
        return Answer.join(self._answers) if complete else None

    def part(self, start: int, stop: int) -> Part:
        """Rows of the present Ask, for a step."""
        assert self.ask is not None
        return Part(self.ask, start, stop, {} if self.ask.model is not None else self.inputs, self.reproducible)

    def took(self, part: tuple[int, int], waited: float, began: float, ended: float) -> None:
        """Notes a step with the rows `part` of its Ask: since when they waited, when it began and when it ended."""
        self.queued += began - waited
        self.device_steps += 1
        if len(self.spans) < SPANS:
            rows = {"lightwell.rows": part[1] - part[0]}
            self.spans += [Span("queue", waited, began, rows), Span("step", began, ended, rows)]

    def finish(self, event: Done | Failed) -> None:
        """Ends the run with its last event; a caller that is gone hears nothing."""
        if self.over:
            return
        self.over = True
        self.steps.close()
        if not self.gone:
            self.tell(event)
        # Its place in a line may be kept for a while yet; its pictures must not.
        self.models, self.inputs, self.ask, self.ticket, self._answers = {}, {}, None, None, []
        self.deliver = lambda event: None

    def tell(self, event: Event) -> None:
        """Delivers an event. Whoever cannot take it is as good as gone, and must not harm the engine's thread."""
        try:
            self.deliver(event)
        except Exception:
            log.exception("an event of %s could not be delivered", self.method)
            self.gone = True
