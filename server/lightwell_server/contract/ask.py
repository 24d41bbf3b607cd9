"""The treaty between methods, engine and models.

A method is a generator. It yields `Ask`s and is sent `Answer`s, yields `Work`s and is sent their results, yields
`Frame`s to show how far it is, and returns an `Explanation` or a `Synthesis`. It never sees a model, a device or a
batch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lightwell_server.contract.results import Explanation, Synthesis

OUTPUT = "<output>"
"""The name of the model's main output, its scores, as a place to read values `at`; no module can have it. The path of
another output behind it names that one."""
INPUT = "<input>"
"""The name of the rows, as a place to differentiate with respect to."""
EMBEDDING = "<embedding>"
"""The name of what the last linear layer gets, as a place to read values `at`."""

Rule = Literal["plain", "guided", "deconvnet"]
"""How a gradient passes a ReLU backwards."""


class Want(enum.Flag):
    """What an `Answer` shall hold."""

    SCORE = enum.auto()
    OUT = enum.auto()
    ACT = enum.auto()
    GRAD = enum.auto()


SCORE, OUT, ACT, GRAD = Want.SCORE, Want.OUT, Want.ACT, Want.GRAD


@dataclass(frozen=True)
class Rows:
    """Rows that are made when a step needs them. `make(index)` takes a 1-d int64 tensor of row numbers and returns
    [len(index), 3, H, W]; it must be pure, for a chunk may be made twice."""

    count: int
    make: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """Changes what flows out of `layer`: `function(activations, index)` returns them changed, `index` being the rows'
    numbers within the Ask. With `count`, the Ask's single row is run up to the layer once and becomes `count` rows
    there."""

    layer: str
    function: Callable[[Tensor, Tensor], Tensor]
    count: int | None = None


Values = Any
"""What is read `at` one layer (a tensor) or at several (a tuple of tensors)."""
Score = Callable[[Values, Tensor], Tensor]
"""Takes the values at `at` of its own rows and their numbers within the Ask; returns [n]."""


@dataclass(frozen=True, eq=False)
class Ask:
    """One question to a model. `rows` is [n, 3, H, W] (or [n, k] codes), or `Rows`. `want` says what comes back;
    `wrt` is where gradient and activation are taken, `at` what the score reads. `model` is None for the model of the
    request, or a role."""

    rows: Tensor | Rows
    score: Score | None = None
    at: str | tuple[str, ...] = OUTPUT
    wrt: str = INPUT
    want: Want = SCORE
    rule: Rule = "plain"
    edit: Edit | None = None
    model: str | None = None

    @property
    def count(self) -> int:
        """How many rows the answer has."""
        if self.edit is not None and self.edit.count is not None:
            return self.edit.count
        return self.rows.count if isinstance(self.rows, Rows) else self.rows.shape[0]

    @cached_property
    def _made(self) -> tuple[torch.Size, torch.dtype]:
        row = self.rows.make(torch.zeros(1, dtype=torch.long)) if isinstance(self.rows, Rows) else self.rows
        return row.shape[1:], row.dtype

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self._made[0])

    @cached_property
    def key(self) -> Hashable:
        """Asks of one model with equal keys may share a device step."""
        edit = None if self.edit is None else (self.edit.layer, self.edit.count is not None)
        return self.at, self.wrt, self.want, self.rule, edit, *self._made

    @property
    def shares(self) -> bool:
        """Whether its rows may share a step with those of others: not if one row becomes many."""
        return self.edit is None or self.edit.count is None


@dataclass(frozen=True, eq=False)
class Part:
    """The rows `start` to `stop` of an Ask, for one device step. `inputs` are the model's other inputs, without a
    batch."""

    ask: Ask
    start: int
    stop: int
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    reproducible: bool = False

    @property
    def count(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


@dataclass
class Answer:
    """What was wanted, and None for the rest: scores [n]; values at `at`; the activation at `wrt`; d score / d
    `wrt`."""

    score: Tensor | None = None
    out: Values = None
    act: Tensor | None = None
    grad: Tensor | None = None

    @classmethod
    def join(cls, answers: Sequence[Answer]) -> Answer:
        """One answer from those to consecutive rows."""
        if len(answers) == 1:
            return answers[0]
        return cls(*(_join([getattr(answer, name) for answer in answers]) for name in ("score", "out", "act", "grad")))


def _join(values: Sequence[Values]) -> Values:
    if values[0] is None:
        return None
    if isinstance(values[0], tuple):
        return tuple(torch.cat(items) for items in zip(*values, strict=True))
    return torch.cat(list(values))


class Work:
    """A computation without a model; it runs on a thread beside the device and its result is sent back."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401 - whatever it takes
        self.function = function
        self.arguments = arguments


@dataclass(frozen=True)
class Frame:
    """How far a method is, with its objective and a copy of its picture [1, 3, H, W] where it has them."""

    step: int
    steps: int
    objective: float | None = None
    image: Tensor | None = None


Step = Ask | Work | Frame
Asking = Generator[Step, Any, Any]
"""A generator within a method: yields steps, returns whatever its caller needs."""
Explaining = Generator[Step, Any, Explanation]
Synthesizing = Generator[Step, Any, Synthesis]
