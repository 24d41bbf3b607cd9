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
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Interval
from pydantic import AfterValidator, InstanceOf, ValidationInfo
from torch import Tensor

from lightwell_server.errors import nearest

OUTPUT = "<output>"
"""The name of the model's main output, its scores, as a place to read values `at`; no module can have it. The path of
another output behind it names that one."""
INPUT = "<input>"
"""The name of the rows, as a place to differentiate with respect to."""
EMBEDDING = "<embedding>"
"""The name of what the last linear layer gets, as a place to read values `at`."""

Activation = Literal["softmax", "sigmoid", "none"]
"""What turns scores into probabilities: softmax for one class of many, sigmoid for many labels; none for a regression,
whose values are no scores of classes."""

Rule = Literal["plain", "guided", "deconvnet"]
"""How a gradient passes a ReLU backwards."""

ModelInput = Annotated[Tensor, InstanceOf(), "fitted"]
"""[1, 3, H, W] in [0, 1]: an image resized and cropped as the model's card says. Where it says that the channels are no
colours, there are as many as it says, here and wherever rows have 3."""
FullImage = Annotated[Tensor, InstanceOf(), "whole"]
"""[1, 3, H, W] in [0, 1]: a whole image at its own size."""


def _known_layer(name: str, info: ValidationInfo[dict[str, Any]]) -> str:
    facts: Facts | None = info.context["facts"]
    if facts is not None and facts.layer(name) is None:
        names = [layer.name for layer in facts.layers]
        raise ValueError(f"the model has no layer {name!r}; {nearest(name, names)}")
    return name


def _with_grid(name: str, info: ValidationInfo[dict[str, Any]]) -> str:
    facts: Facts | None = info.context["facts"]
    layer = facts.layer(name) if facts is not None else None
    if layer is not None and not layer.has_grid:
        raise ValueError(f"{name} has no height and width; its output is {list(layer.shape)}")
    return name


LayerName = Annotated[str, AfterValidator(_known_layer)]
"""The name of one of the model's layers; checked before the method begins."""
GridLayer = Annotated[LayerName, AfterValidator(_with_grid)]
"""The name of a layer with height and width."""
ModelName = Annotated[str, "model"]
"""The name of another model; the parameter's own name is the role that `Ask.model` takes."""


Share = Annotated[float, Interval(ge=0, le=1)]


class Color(NamedTuple):
    """A colour."""

    red: Share
    green: Share
    blue: Share


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


@dataclass(frozen=True)
class Grid:
    """The places of a layer's values: rows and columns, of tokens in the order of rows, with others `front` and
    `behind`, which have no place."""

    rows: int
    columns: int
    front: int = 0
    behind: int = 0

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.front + self.rows * self.columns + self.behind

    def laid_out(self, values: Tensor) -> Tensor:
        """Values [n, channels, rows, columns] as they are; tokens [n, tokens, channels] as such."""
        if values.dim() == 4:
            return values
        placed = values[:, self.front : self.tokens - self.behind]
        return placed.transpose(1, 2).reshape(*values.shape[::2], self.rows, self.columns)


@dataclass(frozen=True)
class Layer:
    """A layer as methods and callers see it: a module's call, or (`functional`) an operation outside of any module of
    its own. `shape` is its output's without the batch, at the card's input size, and `grid` the places of that, if
    they are known; `share` is its part of a forward's multiplications and additions, with all that is inside it;
    `aliases` are the card's names for it. Behind a `head` no weights come."""

    name: str
    type: str
    shape: tuple[int, ...]
    functional: bool = False
    share: float = 0.0
    aliases: tuple[str, ...] = ()
    grid: Grid | None = None
    head: bool = False

    @property
    def has_grid(self) -> bool:
        """Whether its output has height and width."""
        return self.grid is not None

    @property
    def tokens(self) -> bool:
        """Whether its places are tokens [tokens, channels]."""
        return self.has_grid and len(self.shape) == 2

    def called(self, name: str) -> bool:
        """Whether a name means this layer: its own, an alias, or that of a module called several times."""
        return name == self.name or name in self.aliases or name == self.name.partition("@")[0]


@dataclass(frozen=True)
class Facts:
    """What a method may know of a model before it asks. `outputs` are the shapes of the tensors that it gives, without
    the batch, by their paths, and `output` is the path of the main one. `attended` is the last normalisation before a
    transformer's last attention: behind it only the class token reaches the scores. `pooled` is the layer whose mean
    over all positions is the scores, or what a linear layer makes them of; `embeds` tells whether there is a linear
    layer at all; `tensor`, whether its images are tensors of other channels than colours, for each of which `mean` then
    has a value. `channels` is 1 for a model of luminance: it sees grey alone, so nothing that is made for it has a
    colour of its own."""

    layers: tuple[Layer, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    channels: int = 3
    kind: str = "classifier"
    classes: int = 0
    any_size: bool = False
    has_relu: bool = False
    activation: Activation = "softmax"
    attended: str | None = None
    pooled: str | None = None
    embeds: bool = False
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: str = ""
    defaults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tensor: bool = False

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, or None; of a module called several times the last call, if none is named."""
        return next((layer for layer in reversed(self.layers) if layer.called(name)), None)

    @property
    def modules(self) -> tuple[Layer, ...]:
        """The layers that are modules; of a file that has lost them, all."""
        return tuple(layer for layer in self.layers if not layer.functional) or self.layers


@dataclass
class Heatmap:
    """A map [h, w] on its native grid. `enlargement` is none, bilinear or windows (then with window and stride in
    pixels)."""

    values: Tensor
    enlargement: Literal["none", "bilinear", "windows"] = "none"
    window: int = 0
    stride: int = 0
    signed: bool = False


@dataclass
class Explanation:
    """What an Explain method returns; `predictions` is how many shall come back if the request does not say."""

    map: Heatmap | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    predictions: int | None = None


@dataclass
class Synthesis:
    """What a Synthesize method returns: the image [1, 3, H, W] as floats; `picture`, its 8-bit form where the method
    rounds it itself; `final`, the scores [1, classes] of that form where the method saw them; `pictures`, [1, 3, H,
    W] in [0, 1] each."""

    image: Tensor
    picture: Tensor | None = None
    succeeded: bool | None = None
    final: Tensor | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)


Result = Explanation | Synthesis
Step = Ask | Work | Frame
Asking = Generator[Step, Any, Any]
"""A generator within a method: yields steps, returns whatever its caller needs."""
Explaining = Generator[Step, Any, Explanation]
Synthesizing = Generator[Step, Any, Synthesis]
