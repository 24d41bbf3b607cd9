"""The model card: what the model's file does not say. Every field has a default that suits ImageNet models."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from annotated_types import Gt, Interval, Le, Len
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lightwell_server.codec.pictures import Fit
from lightwell_server.contract import Activation, Grid
from lightwell_server.errors import Refused
from lightwell_server.models.disk import regular, there
from lightwell_server.models.lifting.outputs import Kind
from lightwell_server.models.lifting.sample import Argument, InputSpec, Sample

Positive = Annotated[int, Gt(0)]
Side = Annotated[int, Gt(0), Le(8192)]
Floating = Literal["float32", "float64", "float16", "bfloat16"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputCard(_Part):
    """How an image becomes the model's input. The shorter side is resized to `resize` pixels by `interpolation`, with
    `antialias` smoothed before it is reduced. The central crop of `size` (height, width) is taken, and its luminance if
    `channels` is 1. The model takes (pixel - mean) / std of values in [0, 1].

    Images with another number of channels than 1 or 3, or with `bands`, are tensors whose channels are not colours.
    `bands` are the channels, counted from 1, that are drawn as red, green and blue, or as grey. With `order` bgr blue
    is the first channel, of `mean` and `std` too. `layout` is [n, channels, height, width] or [n, height, width,
    channels]; with `batch` false the file takes one image without n; unset, as the file declares. A file whose `dtype`
    is uint8 takes pixels from 0 to 255 and normalises them itself. `code` is the length of a generator's codes."""

    size: tuple[Side, Side] = (224, 224)
    resize: Side | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    channels: Annotated[int, Interval(ge=1, le=64)] = 3
    bands: tuple[Positive, ...] = ()
    order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float", "uint8"] = "float"
    batch: bool | None = None
    mean: Annotated[tuple[float, ...], Len(1)] | None = None
    std: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] | None = None
    code: Positive = 128

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.order == "bgr" and (self.tensor or self.channels != 3):
            raise ValueError("order bgr is for the colours of pictures, which have 3 channels and no bands")
        if len(self.bands) not in (0, 1, 3) or max(self.bands, default=1) > self.channels:
            raise ValueError(f"bands are one or three of the channels, counted from 1 to {self.channels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if self.dtype == "uint8":
                raise ValueError(f"a file that takes uint8 normalises its pixels itself; leave {name} out")
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values; it needs one for each of {self.channels}")
        return self

    @property
    def tensor(self) -> bool:
        """Whether the channels are not colours."""
        return self.channels not in (1, 3) or bool(self.bands)

    @property
    def drawn(self) -> tuple[int, ...]:
        """The channels, counted from 1, by which a tensor is drawn; empty for a picture."""
        return (self.bands or ((1, 2, 3) if self.channels > 2 else (1,))) if self.tensor else ()

    def normalisation(self, plain: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation in the order of the file's channels, for pixels in [0, 1]. The defaults are
        ImageNet's. With `plain`, one channel, a tensor or uint8 they are 0 and 1."""
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if plain or self.tensor or self.channels == 1 or self.dtype == "uint8":
            mean, std = (0.0,) * self.channels, (1.0,) * self.channels
        return self.mean or mean, self.std or std


class OutputCard(_Part):
    """`labels`: the class names in index order, or a file with one a line. `path`: the output that is explained, by the
    names, keys and indices that lead to it, joined by dots. `scores`: read before a final softmax or sigmoid, or as the
    file returns them. `activation`: what turns scores into probabilities; unset, the file's own, else softmax; with
    none, the output may have any shape. `range`: the darkest and the brightest value of an image, for stylizers and
    generators."""

    labels: str | tuple[str, ...] = ()
    path: str = ""
    scores: Literal["before_activation", "as_returned"] = "before_activation"
    activation: Activation | None = None
    range: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _wide(self) -> Self:
        if not self.range[0] < self.range[1]:
            raise ValueError("range is the darkest value, then the brightest")
        return self


class TensorCard(_Part):
    """Another input of the model: its shape without the batch."""

    shape: tuple[Positive, ...]
    dtype: Literal["float32", "int64", "int32", "bool"] = "float32"


class TokensCard(_Part):
    """The grid of a transformer's tokens where the graph does not show it: rows, columns, and the number of tokens in
    front of them."""

    rows: Positive
    columns: Positive
    front: Annotated[int, Field(ge=0)] = 0

    @property
    def grid(self) -> Grid:
        """The same as a `Grid`."""
        return Grid(self.rows, self.columns, self.front)


class CheckCard(_Part):
    """A picture in the card's directory, and the expected scores of some classes. It is verified whenever the model is
    loaded: a score may differ by `tolerance` times the largest score, in half precision by more."""

    picture: str
    classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(1)]
    scores: Annotated[tuple[float, ...], Len(1)]
    tolerance: Annotated[float, Gt(0)] = 1e-3

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.classes) != len(self.scores):
            raise ValueError(
                f"{len(self.classes)} classes and {len(self.scores)} scores; give one score for each class"
            )
        return self


class Card(_Part):
    """`dtype`: the dtype that the model computes in; unset, the server's. `layers`: the default layers of methods by
    purpose, such as grad_cam, style, content. `names`: aliases of layers. `arguments`: values of the model's arguments
    that are not tensors, in place of their defaults. `tokens`: the grid of layers with that many tokens, if none was
    found."""

    kind: Kind = "classifier"
    dtype: Floating | None = None
    input: InputCard = Field(default_factory=InputCard)
    output: OutputCard = Field(default_factory=OutputCard)
    layers: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    names: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, TensorCard] = Field(default_factory=dict)
    arguments: dict[str, Argument] = Field(default_factory=dict)
    tokens: TokensCard | None = None
    check: CheckCard | None = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.check is not None and self.input.tensor:
            raise ValueError("check is by a picture, and the model's images are tensors; leave it out")
        return self

    @property
    def resize(self) -> int:
        """The shorter side in pixels before the crop: as given, else 8/7 of the crop's, as ImageNet models have it."""
        return self.input.resize or round(min(self.input.size) * 8 / 7)

    @property
    def default_layers(self) -> dict[str, tuple[str, ...]]:
        """The layers that the card names, by purpose."""
        return {name: (layers,) if isinstance(layers, str) else layers for name, layers in self.layers.items()}

    @property
    def fit(self) -> Fit:
        """How images are fitted to the model's size."""
        return Fit(self.input.size, self.resize, self.input.interpolation, self.input.antialias)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation in the order of the file's channels. The default is ImageNet's for classifiers,
        and 0 and 1 for other kinds."""
        given = self.input.mean is not None or self.input.std is not None
        return self.input.normalisation(plain=self.kind != "classifier" and not given)

    def numbers(self, default: torch.dtype) -> torch.dtype:
        """The dtype that the model computes in."""
        return default if self.dtype is None else _FLOATING[self.dtype]

    def sample(self, labels: int = 0) -> Sample:
        """What the model is recorded and verified on. With two `labels` a single score is that of the second; the first
        is its negation."""
        turned = -1 if self.input.order == "bgr" else 1
        mean, std = self.normalisation
        return Sample(
            size=self.input.size,
            mean=mean[::turned],
            std=std[::turned],
            inputs={name: InputSpec(part.shape, getattr(torch, part.dtype)) for name, part in self.inputs.items()},
            arguments=self.arguments,
            before_activation=self.output.scores == "before_activation",
            channels=self.input.channels,
            kind=self.kind,
            code=self.input.code,
            output=self.output.path,
            range=self.output.range,
            scored=self.output.activation != "none",
            binary=self.output.activation == "sigmoid" or (labels == 2 and self.output.activation != "none"),
            layout=self.input.layout,
            order=self.input.order,
            integers=self.input.dtype == "uint8",
            batch=self.input.batch,
            tensor=self.input.tensor,
        )


_FLOATING = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def validation_message(error: ValidationError) -> str:
    """What is wrong with a card: one message for each field."""
    wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
    return "; ".join(wrong)


def read(directory: Path, repository: Path) -> tuple[Card, tuple[str, ...]]:
    """The card of a version's directory and its labels; defaults if there is no card. Raises `Refused` naming what is
    wrong."""
    path = directory / "card.toml"
    try:
        text = regular(path).read_text("utf-8") if there(path) else ""
        card = Card.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"card.toml is no TOML: {error}", reason="BAD_CARD") from error
    except ValidationError as error:
        raise Refused(f"card.toml: {validation_message(error)}", reason="BAD_CARD") from error
    return card, labels(card, directory, repository)


def labels(card: Card, directory: Path, repository: Path) -> tuple[str, ...]:
    """The labels of a card, from their file if it names one. Raises `Refused`."""
    if not isinstance(card.output.labels, str):
        return card.output.labels
    path = inside(card.output.labels, "output.labels", directory, repository)
    try:
        return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise Refused(f"{card.output.labels} is not UTF-8: {error}", reason="BAD_CARD") from error


def inside(name: str, field: str, directory: Path, repository: Path) -> Path:
    """The path of a file that a card names. Raises `Refused` if it does not exist or lies outside the repository."""
    path = (directory / name).resolve()
    if not path.is_relative_to(repository.resolve()) or not path.is_file():
        raise Refused(f"card.toml: {field} names no file inside the repository: {name}", reason="BAD_CARD")
    return path
