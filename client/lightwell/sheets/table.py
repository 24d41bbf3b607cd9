"""Results in rows and columns, with their labels."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from lightwell.requests import TargetLike, name_of
from lightwell.results import Explanation, Synthesis, named
from lightwell.transport.errors import LightwellError
from lightwell.v1 import types_pb2 as types

Answer = Explanation | Synthesis | LightwellError
"""The result of a cell, or its error."""


@dataclass(frozen=True)
class Row:
    """What a row is about: an image with its name, a model (empty: the only one) and a target (None: the class with the
    highest score)."""

    name: str
    image: types.Image
    model: str
    target: TargetLike


@dataclass(frozen=True)
class Column:
    """A method, and in `words` its parameters as text."""

    method: Message
    words: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The labels above the column."""
        return [name_of(self.method), *self.words]


@dataclass(frozen=True)
class Table:
    """`answers[i][j]` is the result of `rows[i]` and `columns[j]`, or its error."""

    rows: list[Row]
    columns: list[Column]
    answers: list[list[Answer]]

    def labels(self, row: int) -> list[str]:
        """The labels of a row: the image's name, the model, the target with its probability."""
        seen = [answer for answer in self.answers[row] if not isinstance(answer, LightwellError)]
        models = [answer.provenance.model for answer in seen][:1] or [self.rows[row].model]
        targets = [answer.target for answer in seen if answer.message.HasField("target")][:1]
        asked = self.rows[row].target
        words = [str(asked)] if isinstance(asked, int | str) else []
        return [self.rows[row].name, *filter(None, models), *(map(_with_probability, targets) if targets else words)]


def _with_probability(target: types.ExplainedTarget) -> str:
    probability = f" {target.probability:.1%}" if target.HasField("probability") else ""
    return named(target) + probability
