"""Targets: the scalars that are explained, attacked or raised, each as a score over the values at one place."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from lightwell_server.contract.ask import INPUT, OUT, OUTPUT, SCORE, Ask, Step, Want
from lightwell_server.contract.facts import Activation, Grid
from lightwell_server.contract.results import Explanation, Result
from lightwell_server.errors import InvalidArgument

Readout = Literal["score", "probability", "log_probability"]


def reading(scores: Tensor, readout: Readout, activation: Activation = "softmax") -> Tensor:
    """Scores [n, classes] as scores, or as probabilities or their logarithms by the model's activation. Raises
    InvalidArgument where the model has no probabilities."""
    if readout == "score":
        return scores
    if activation == "none":
        raise InvalidArgument.at("target.readout", "the model's outputs are no probabilities; explain the score")
    if activation == "sigmoid":
        return scores.sigmoid() if readout == "probability" else logsigmoid(scores)
    return scores.softmax(1) if readout == "probability" else scores.log_softmax(1)


def _laid_out(values: Tensor, grid: Grid | None) -> Tensor:
    """A transformer's tokens as a grid, [n, channels, h, w]; all else as it is."""
    return values if grid is None else grid.laid_out(values)


class Target:
    """A scalar of the model; this one itself is none, for methods that look at no target."""

    @property
    def at(self) -> str:
        """Where its score reads."""
        return OUTPUT

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """Values at `at` to [n]."""
        raise TypeError(f"{type(self).__name__} has no score")

    @property
    def placed(self) -> bool:
        """Whether it names a place, which is another one at another size of the image."""
        return False

    def read(self, readout: Readout) -> Target:
        """The same target, read as a score, a probability or a log-probability where it is a class."""
        return self


@dataclass(frozen=True)
class ClassTarget(Target):
    """A class, or with `index` None the class with the highest score, each row's own."""

    index: int | None = None
    readout: Readout = "score"
    activation: Activation = "softmax"

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        readings = reading(values, self.readout, self.activation)
        return readings.amax(1) if self.index is None else readings[:, self.index]

    def read(self, readout: Readout) -> ClassTarget:
        return replace(self, readout=readout)


@dataclass(frozen=True)
class ContrastTarget(Target):
    """The reading of one class minus that of another."""

    index: int
    against: int
    readout: Readout = "score"
    activation: Activation = "softmax"

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        readings = reading(values, self.readout, self.activation)
        return readings[:, self.index] - readings[:, self.against]


@dataclass(frozen=True)
class ChannelTarget(Target):
    """The mean of a layer's channel over its positions; with `position`, one neuron (row, column). `grid` is the
    layer's."""

    layer: str
    channel: int
    position: tuple[int, int] | None = None
    grid: Grid | None = None

    @property
    def at(self) -> str:
        return self.layer

    @property
    def placed(self) -> bool:
        return self.position is not None

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        activations = _laid_out(values, self.grid)[:, self.channel]
        if self.position is not None:
            return activations[:, self.position[0], self.position[1]]
        return activations.flatten(1).mean(1) if activations.dim() > 1 else activations


@dataclass(frozen=True)
class ElementTarget(Target):
    """One value of one output."""

    output: str
    index: tuple[int, ...]

    @property
    def at(self) -> str:
        return self.output

    @property
    def placed(self) -> bool:
        return len(self.index) > 1

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        for place in self.index:
            values = values[:, place]
        return values


@dataclass(frozen=True, eq=False)
class DirectionTarget(Target):
    """The mean over positions of the product of a layer's activations with `vector` [channels]. `grid` is the
    layer's."""

    layer: str
    vector: Tensor
    grid: Grid | None = None

    @property
    def at(self) -> str:
        return self.layer

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        laid_out = _laid_out(values, self.grid)
        means = laid_out.flatten(2).mean(2) if laid_out.dim() > 2 else laid_out
        return means @ self.vector.to(means)


TargetT = TypeVar("TargetT", bound=Target)


def resolve_target(
    target: TargetT, image: Tensor, wrt: str = INPUT, more: Want = SCORE
) -> Generator[Step, Any, tuple[TargetT, Any]]:
    """Fixes an unset target by one pass over the clean image; returns it with that pass: its score [1], and `more`."""
    answer = yield Ask(image, target.score, at=target.at, wrt=wrt, want=SCORE | OUT | more)
    if isinstance(target, ClassTarget) and target.index is None:
        target = replace(target, index=int(answer.out.argmax(1)))
    return target, answer


@dataclass
class Seen:
    """What passes over the unchanged image have shown on the way: the scores of all classes [1, classes] and the
    target's own score [1]."""

    out: Tensor | None = None
    score: Tensor | None = None


@dataclass
class Observed:
    """A method's result with what was seen of the clean image."""

    result: Result
    seen: Seen = field(default_factory=Seen)


def with_clean_pass(
    method: Generator[Step, Any, Result], image: Tensor | None, target: Target, fitted: Tensor | None, wanted: bool
) -> Generator[Step, Any, Observed]:
    """Runs a method and notes the target's score, and the model's output, where the method passes over the unchanged
    image anyway. If it never did and the predictions are `wanted`, one more pass is made over the `fitted` image."""
    seen, reply = Seen(), None
    while True:
        try:
            step = method.send(reply)
        except StopIteration as end:
            result = end.value
            break
        if isinstance(step, Ask) and seen.score is None and step.rows is image and _plain(step):
            reply = yield replace(step, want=step.want | SCORE | (OUT if step.at == OUTPUT else SCORE))
            seen.score, seen.out = reply.score, reply.out if step.at == OUTPUT else None
        else:
            reply = yield step
    wanted = wanted or (isinstance(result, Explanation) and result.predictions is not None)
    if wanted and seen.out is None and fitted is not None:
        seen.out = (yield Ask(fitted, want=OUT)).out
    return Observed(result, seen)


def _plain(ask: Ask) -> bool:
    """Whether an Ask is for a target's score, with nothing changed on the way."""
    return isinstance(getattr(ask.score, "__self__", None), Target) and ask.edit is None and ask.model is None
