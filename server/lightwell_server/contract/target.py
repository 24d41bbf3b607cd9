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
"""How a class is read: its score, its probability, or the natural logarithm of its probability."""


def reading(scores: Tensor, readout: Readout, activation: Activation = "softmax") -> Tensor:
    """`scores` [n, classes], floating, read as scores, as probabilities in [0, 1], or as log-probabilities of 0 at
    most. Raises InvalidArgument if the model has no probabilities."""
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
    """A scalar of the model that is explained, attacked or raised. The base class is for methods that look at no
    target."""

    @property
    def at(self) -> str:
        """The layer or output that `score` reads."""
        return OUTPUT

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """The scores [n], floating, of `values` [n, ...] at `at`. `index` [n], int64, numbers the rows within the Ask.
        Raises TypeError in the base class, which has no score."""
        raise TypeError(f"{type(self).__name__} has no score")

    @property
    def placed(self) -> bool:
        """Whether it names a position, which lies elsewhere in an image of another size."""
        return False

    def read(self, readout: Readout) -> Target:
        """The same target. A class is read as `readout`."""
        return self


@dataclass(frozen=True)
class ClassTarget(Target):
    """The class with number `index`, from 0. With None it is the class with the highest score, for each row by itself.
    `readout` says how the class is read, and `activation` is the model's."""

    index: int | None = None
    readout: Readout = "score"
    activation: Activation = "softmax"

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """The reading [n] of the class in `values` [n, classes], floating. `index` [n], int64, is not used. Raises
        InvalidArgument if the model has no probabilities to read."""
        readings = reading(values, self.readout, self.activation)
        return readings.amax(1) if self.index is None else readings[:, self.index]

    def read(self, readout: Readout) -> ClassTarget:
        """The same class with another readout."""
        return replace(self, readout=readout)


@dataclass(frozen=True)
class ContrastTarget(Target):
    """The reading of class `index` minus the reading of class `against`, both numbers from 0. `readout` says how the
    classes are read, and `activation` is the model's."""

    index: int
    against: int
    readout: Readout = "score"
    activation: Activation = "softmax"

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """The difference [n] of the readings in `values` [n, classes], floating. `index` [n], int64, is not used.
        Raises InvalidArgument if the model has no probabilities to read."""
        readings = reading(values, self.readout, self.activation)
        return readings[:, self.index] - readings[:, self.against]


@dataclass(frozen=True)
class ChannelTarget(Target):
    """The mean of a channel of `layer` over its positions, or with `position` (row, column) a single neuron. `channel`,
    row and column are numbered from 0. `grid` has the positions of the layer if its output is tokens."""

    layer: str
    channel: int
    position: tuple[int, int] | None = None
    grid: Grid | None = None

    @property
    def at(self) -> str:
        """The layer."""
        return self.layer

    @property
    def placed(self) -> bool:
        """Whether it is a single neuron."""
        return self.position is not None

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """The mean or the neuron [n] of `values`, floating: [n, channels], [n, channels, h, w] or tokens
        [n, tokens, channels]. `index` [n], int64, is not used."""
        activations = _laid_out(values, self.grid)[:, self.channel]
        if self.position is not None:
            return activations[:, self.position[0], self.position[1]]
        return activations.flatten(1).mean(1) if activations.dim() > 1 else activations


@dataclass(frozen=True)
class ElementTarget(Target):
    """One value of one output. `output` is the place that is read: `OUTPUT`, with a path for another output. `index` is
    the position in it without the batch, numbered from 0."""

    output: str
    index: tuple[int, ...]

    @property
    def at(self) -> str:
        """The output."""
        return self.output

    @property
    def placed(self) -> bool:
        """Whether the output has more than one dimension."""
        return len(self.index) > 1

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """The element [n] of `values` [n, ...], in their dtype, floating for gradients. `index` [n], int64, is not
        used."""
        for place in self.index:
            values = values[:, place]
        return values


@dataclass(frozen=True, eq=False)
class DirectionTarget(Target):
    """The mean over positions of the dot product of activations with `vector` [channels], floating. `layer` is where
    they are read, and `grid` has its positions if its output is tokens."""

    layer: str
    vector: Tensor
    grid: Grid | None = None

    @property
    def at(self) -> str:
        """The layer."""
        return self.layer

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """The mean dot product [n] of `values`, floating: [n, channels], [n, channels, h, w] or tokens
        [n, tokens, channels]. `index` [n], int64, is not used."""
        laid_out = _laid_out(values, self.grid)
        means = laid_out.flatten(2).mean(2) if laid_out.dim() > 2 else laid_out
        return means @ self.vector.to(means)


TargetT = TypeVar("TargetT", bound=Target)


def resolve_target(
    target: TargetT, image: Tensor, wrt: str = INPUT, more: Want = SCORE
) -> Generator[Step, Any, tuple[TargetT, Any]]:
    """Sets an unset target to the class with the highest score, by one pass over the clean `image` [1, 3, H, W],
    float32 or float64, in [0, 1]. Returns the target and the answer of that pass: its `score` [1], its `out`, and what
    `more` asks for at `wrt`."""
    answer = yield Ask(image, target.score, at=target.at, wrt=wrt, want=SCORE | OUT | more)
    if isinstance(target, ClassTarget) and target.index is None:
        target = replace(target, index=int(answer.out.argmax(1)))
    return target, answer


@dataclass
class Seen:
    """What the method's passes over the unchanged image have shown. `out` is the model's main output, [1, classes] for
    a classifier. `score` [1] is the target's score. Both are float32 or float64, or None if no pass has shown them."""

    out: Tensor | None = None
    score: Tensor | None = None


@dataclass
class Observed:
    """The `result` of a method, with what was `seen` of the clean image."""

    result: Result
    seen: Seen = field(default_factory=Seen)


def with_clean_pass(
    method: Generator[Step, Any, Result], image: Tensor | None, target: Target, fitted: Tensor | None, wanted: bool
) -> Generator[Step, Any, Observed]:
    """Runs `method`. Where it asks for the unchanged `image` anyway, the target's score and the model's output are
    recorded. If predictions are `wanted` and the output was not recorded, one more pass over `fitted` follows. `image`
    [1, 3, H, W] is what the method looks at, `fitted` [1, 3, H, W] the same as the model takes it. Both are float32 or
    float64, in [0, 1], or None if there is none."""
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
