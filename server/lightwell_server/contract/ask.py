"""The contract between methods, engine and models.

A method is a generator. It yields `Ask`s and is sent `Answer`s, yields `Work`s and is sent their results, yields
`Frame`s to report progress, and returns an `Explanation` or a `Synthesis`. It never sees a model, a device or a batch.
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
"""A value of `Ask.at`: the model's main output. With the path of another output appended, it is that output. No module
can have this name."""
INPUT = "<input>"
"""A value of `Ask.wrt`: the rows themselves."""
EMBEDDING = "<embedding>"
"""A value of `Ask.at`: the input of the last linear layer."""

Rule = Literal["plain", "guided", "deconvnet"]
"""Where a gradient passes a ReLU backwards: "plain" where the ReLU's input is positive, "deconvnet" where the gradient
is positive, "guided" where both are."""


class Want(enum.Flag):
    """What an `Answer` holds: `SCORE` is the scores, `OUT` the values at `at`, `ACT` the activation at `wrt`, `GRAD`
    the gradient with respect to it."""

    SCORE = enum.auto()
    OUT = enum.auto()
    ACT = enum.auto()
    GRAD = enum.auto()


SCORE, OUT, ACT, GRAD = Want.SCORE, Want.OUT, Want.ACT, Want.GRAD
"""The flags of `Want`."""


@dataclass(frozen=True)
class Rows:
    """Rows that are computed when a step needs them. `count` is their number, at least 1. `make` takes row numbers [n],
    int64, from 0, and returns the rows [n, 3, H, W], floating. It must be pure, because a chunk may be computed
    twice."""

    count: int
    make: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """A change of the output of `layer`. `function` takes activations [n, ...], floating, in the model's own dtype, and
    the numbers [n], int64, of their rows within the Ask. It returns changed activations of the same shape and dtype.
    With `count` the Ask has a single row, which runs up to `layer` once and is then repeated `count` times."""

    layer: str
    function: Callable[[Tensor, Tensor], Tensor]
    count: int | None = None


Values = Any
"""What is read `at` one layer, a tensor [n, ...], or at several, a tuple of tensors. Floating values are float32 or
float64; an integer output keeps its dtype."""
Score = Callable[[Values, Tensor], Tensor]
"""Takes the values at `at` of some rows, and the numbers [n], int64, of these rows within the Ask. Returns their scores
[n], floating."""


@dataclass(frozen=True, eq=False)
class Ask:
    """One question to a model.

    - `rows`: images [n, 3, H, W], floating, on the scale of [0, 1], codes [n, k] of a generator, or `Rows`.
    - `score`: the scores of the values at `at`. The gradient needs it.
    - `at`: the layer or output that is read, or several.
    - `wrt`: the layer whose activation and gradient are taken, or the rows.
    - `want`: what the answer holds.
    - `rule`: the backward rule of each ReLU.
    - `edit`: a change of a layer's output.
    - `model`: the name of the parameter that names another model. None is the request's own model.
    """

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
        """The number of rows of the answer."""
        if self.edit is not None and self.edit.count is not None:
            return self.edit.count
        return self.rows.count if isinstance(self.rows, Rows) else self.rows.shape[0]

    @cached_property
    def _made(self) -> tuple[torch.Size, torch.dtype]:
        row = self.rows.make(torch.zeros(1, dtype=torch.long)) if isinstance(self.rows, Rows) else self.rows
        return row.shape[1:], row.dtype

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row, without the batch."""
        return tuple(self._made[0])

    @cached_property
    def key(self) -> Hashable:
        """Asks of one model with equal keys may share a device step. It contains the shape and the dtype of a row."""
        edit = None if self.edit is None else (self.edit.layer, self.edit.count is not None)
        return self.at, self.wrt, self.want, self.rule, edit, *self._made

    @property
    def shares(self) -> bool:
        """Whether its rows may share a device step with those of other Asks. They may not if `edit` repeats a single
        row."""
        return self.edit is None or self.edit.count is None


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of `ask` from `start` up to, not including, `stop`, for one device step. `inputs` are the model's other
    inputs by name, each a tensor [...] without the batch, in the dtype that the model declares, such as int64. With
    `reproducible` the step uses deterministic algorithms."""

    ask: Ask
    start: int
    stop: int
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    reproducible: bool = False

    @property
    def count(self) -> int:
        """The number of rows."""
        return self.stop - self.start


@dataclass
class Answer:
    """The answer to an Ask. What was not wanted is None. All tensors are float32 or float64, but an integer `out` keeps
    its dtype.

    - `score`: the scores [n].
    - `out`: the values [n, ...] at `at`, a tuple for several.
    - `act`: the activation [n, ...] at `wrt`.
    - `grad`: the derivative [n, ...] of `score` with respect to that activation.
    """

    score: Tensor | None = None
    out: Values = None
    act: Tensor | None = None
    grad: Tensor | None = None

    @classmethod
    def join(cls, answers: Sequence[Answer]) -> Answer:
        """The answer to all rows, from the answers to consecutive parts of them."""
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
    """A computation without a model: `function` of `arguments`. It runs on a thread beside the device, and its result
    is sent back to the method."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401 - whatever it takes
        self.function = function
        self.arguments = arguments


@dataclass(frozen=True)
class Frame:
    """The progress of a method: `step` of `steps`, counted from 1. `objective` is what the method optimises, in its own
    unit. `image` is a copy of its current picture [1, 3, H, W], float32 or float64, in [0, 1]. Both are None where
    there is none."""

    step: int
    steps: int
    objective: float | None = None
    image: Tensor | None = None


Step = Ask | Work | Frame
"""What a method yields."""
Asking = Generator[Step, Any, Any]
"""A generator within a method. It yields steps and returns what its caller needs."""
Explaining = Generator[Step, Any, Explanation]
"""The generator of an Explain method."""
Synthesizing = Generator[Step, Any, Synthesis]
"""The generator of a Synthesize method."""
