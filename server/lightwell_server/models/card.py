"""The card of a model: what its file does not say. Everything has a default that suits ImageNet models."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Len
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightwell_server.errors import Refused
from lightwell_server.models.lift import InputSpec, Sample

Positive = Annotated[int, Gt(0)]
Triple = Annotated[tuple[float, ...], Len(3, 3)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputCard(_Part):
    """How an image becomes rows: the shorter side is brought to `resize`, the middle `size` (height, width) is taken,
    and the model takes (pixel - mean) / std of RGB in [0, 1]."""

    size: tuple[Positive, Positive] = (224, 224)
    resize: Positive | None = None
    mean: Triple = (0.485, 0.456, 0.406)
    std: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(3, 3)] = (0.229, 0.224, 0.225)


class OutputCard(_Part):
    """`labels`: the classes' names in index order, or a file with one a line. `scores`: read before a final softmax,
    or as the file returns them."""

    labels: str | tuple[str, ...] = ()
    scores: Literal["before_softmax", "as_returned"] = "before_softmax"


class TensorCard(_Part):
    """Another input of the model: its shape without the batch."""

    shape: tuple[Positive, ...]
    dtype: Literal["float32", "int64", "int32", "bool"] = "float32"


class Card(_Part):
    """`layers`: the default layers of methods, such as grad_cam, style, content."""

    kind: Literal["classifier", "stylizer", "generator"] = "classifier"
    input: InputCard = Field(default_factory=InputCard)
    output: OutputCard = Field(default_factory=OutputCard)
    layers: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    inputs: dict[str, TensorCard] = Field(default_factory=dict)

    @property
    def resize(self) -> int:
        """The shorter side before the crop: as given, else as ImageNet models have it, 8/7 of the crop."""
        return self.input.resize or round(min(self.input.size) * 8 / 7)

    @property
    def default_layers(self) -> dict[str, tuple[str, ...]]:
        """The layers that the card names, by what they are for."""
        return {name: (layers,) if isinstance(layers, str) else layers for name, layers in self.layers.items()}

    def sample(self) -> Sample:
        """What the model is recorded and proved on. Other kinds than classifiers take pixels as they are unless told
        otherwise."""
        plain = self.kind != "classifier" and not self.input.model_fields_set & {"mean", "std"}
        return Sample(
            size=self.input.size,
            mean=(0.0,) * 3 if plain else self.input.mean,
            std=(1.0,) * 3 if plain else self.input.std,
            inputs={name: InputSpec(part.shape, getattr(torch, part.dtype)) for name, part in self.inputs.items()},
            pre_softmax=self.output.scores == "before_softmax",
        )


def read(directory: Path, repository: Path) -> tuple[Card, tuple[str, ...]]:
    """The card of a version's directory and its labels; defaults if there is none. Raises `Refused` naming what is
    wrong."""
    path = directory / "card.toml"
    try:
        card = Card.model_validate(tomllib.loads(path.read_text())) if path.exists() else Card()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"card.toml is no TOML: {error}", reason="BAD_CARD") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise Refused(f"card.toml: {told}", reason="BAD_CARD") from error
    if not isinstance(card.output.labels, str):
        return card, card.output.labels
    labels = (directory / card.output.labels).resolve()
    if not labels.is_relative_to(repository.resolve()) or not labels.is_file():
        raise Refused(
            f"card.toml: output.labels names no file inside the repository: {card.output.labels}", reason="BAD_CARD"
        )
    try:
        return card, tuple(line.strip() for line in labels.read_text("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise Refused(f"{card.output.labels} is not UTF-8: {error}", reason="BAD_CARD") from error
