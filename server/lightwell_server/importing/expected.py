"""Writes the check of a card: a picture, and the scores that the network gives on it. Loading verifies them, so that a
resize, crop or normalisation that differs from the network's own is found at once."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor

from lightwell_server.codec import pictures
from lightwell_server.errors import InvalidArgument
from lightwell_server.importing.given import table
from lightwell_server.models.card import Card, CheckCard
from lightwell_server.models.lifting.files import opened
from lightwell_server.models.lifting.outputs import leaves
from lightwell_server.models.lifting.pixels import shaped
from lightwell_server.models.lifting.proof import TOLERANCES
from lightwell_server.models.store import Model

HIGHEST = 5
"""The number of classes whose scores are written."""
DEFAULT: float = CheckCard.model_fields["tolerance"].default
WIDTH, HEIGHT = 400, 300
"""The size of the drawn picture in pixels."""


class Unchecked(Exception):
    """The reason why no check can be written."""


@dataclass(frozen=True)
class Picture:
    """An image file to check with: its name in the model's directory, and its bytes."""

    name: str
    data: bytes

    @classmethod
    def of(cls, path: Path) -> Picture:
        """The picture of a file. Raises ValueError if it is not an image, and OSError if it cannot be read."""
        data = path.read_bytes()
        try:
            pictures.opened(data, str(path))
        except InvalidArgument as error:
            raise ValueError(error.message) from None
        return cls(f"check{path.suffix.lower()}", data)

    @classmethod
    def drawn(cls) -> Picture:
        """Waves of colour that become finer to the right, on a picture that is not square: resize, filter, crop and the
        order of colours all change the scores. It is not a photograph, so its most probable classes mean nothing."""
        down, across = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
        phase = 2 * np.pi * (2 * across + 12 * across**3 + 3 * down)
        waves = [np.cos(phase), np.sin(2 * phase), np.cos(phase * down)]
        pixels = np.stack([0.5 + wave * weight for wave, weight in zip(waves, (0.45, 0.3, 0.2), strict=True)], axis=2)
        buffer = io.BytesIO()
        Pil.fromarray((255 * pixels).round().astype(np.uint8)).save(buffer, "PNG")
        return cls("check.png", buffer.getvalue())

    def opened(self) -> Pil.Image:
        """The picture, decoded in the same way as those of requests."""
        return pictures.opened(self.data, self.name)


@dataclass(frozen=True)
class Reference:
    """A source of scores that is independent of the lifted graph: a network in eval mode, the dtype of its weights, and
    its own preprocessing from a picture to rows [3, height, width]; None for the card's."""

    network: Callable[[Tensor], Any]
    dtype: torch.dtype
    pixels: Callable[[Pil.Image], Tensor] | None = None

    @classmethod
    def file(cls, path: Path, card: Card) -> Reference:
        """The model file as reference. Raises `Refused`."""
        file = shaped(opened(path), card.sample())
        return cls(lambda rows: file.run([rows]), file.dtype)


def check(model: Model, reference: Reference, picture: Picture) -> CheckCard:
    """The check of a classifier. Raises `Unchecked` if the graph's scores are not what the reference returns."""
    if model.facts.tensor:
        raise Unchecked("a picture has not the channels that the model takes")
    if not model.facts.classes:
        raise Unchecked("the model gives no scores [n, classes]")
    if model.graph.activation is not None:
        raise Unchecked(f"scores are read before the file's final {model.graph.activation}, which it does not return")
    highest, classes = _scores(model, reference, picture.opened()).topk(min(HIGHEST, model.facts.classes))
    return CheckCard(
        picture=picture.name,
        classes=tuple(classes.tolist()),
        scores=tuple(float(f"{score:.6g}") for score in highest.tolist()),
        tolerance=max(DEFAULT, TOLERANCES[reference.dtype]),
    )


def text(check: CheckCard) -> str:
    """The check as a table of the card."""
    return table("check", check.model_dump(exclude_defaults=True))


def _scores(model: Model, reference: Reference, picture: Pil.Image) -> Tensor:
    """The reference's scores of all classes, float64 [classes]."""
    row = reference.pixels(picture)[None] if reference.pixels else _row(model.card, picture)
    rows = row.to(reference.dtype).expand(model.graph.fixed or 2, -1, -1, -1)  # some exported files refuse a single row
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        values = dict(leaves(reference.network(rows.contiguous())))
    path = model.card.output.path
    fitting = [v for name, v in values.items() if isinstance(v, Tensor) and v.dim() == 2 and path in ("", name)]
    if len(fitting) != 1:
        raise Unchecked(f"the file returns {len(fitting)} tensors that may be its scores; one is needed")
    scores: Tensor = fitting[0][0].double()
    return scores


def _row(card: Card, picture: Pil.Image) -> Tensor:
    """The card's preprocessing of a picture, [1, channels, height, width]."""
    rows, _ = pictures.fitted(picture, card.fit, "picture")
    return card.sample().normalise(rows)
