"""What is known about a model before it has a card: options of a command, or a published network's preprocessing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from lightwell_server.models.card import Card, validation_message

LABELS = "labels.txt"
_INPUT = (
    "size",
    "resize",
    "interpolation",
    "antialias",
    "channels",
    "bands",
    "order",
    "layout",
    "batch",
    "mean",
    "std",
    "code",
)
_PLACES = {
    "": {"kind": "kind", "dtype": "dtype"},
    "input": {**dict(zip(_INPUT, _INPUT, strict=True)), "dtype": "input_dtype"},
    "output": {"path": "path", "activation": "activation"},
}
"""By the card's tables: its fields, and the names of these in `Given`."""


@dataclass(frozen=True)
class Given:
    """The fields of a card that are given, by their names there; `input_dtype` is input.dtype. None means the card's
    default. `labels` go into a separate file."""

    kind: str | None = None
    dtype: str | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str | None = None
    antialias: bool | None = None
    channels: int | None = None
    bands: tuple[int, ...] | None = None
    order: str | None = None
    layout: str | None = None
    input_dtype: str | None = None
    batch: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    code: int | None = None
    path: str | None = None
    activation: str | None = None
    labels: tuple[str, ...] | None = None

    def over(self, other: Given) -> Given:
        """These fields, and the other's where they are None."""
        return replace(other, **{name: value for name, value in vars(self).items() if value is not None})

    def beyond(self, card: Card) -> Given:
        """These fields without those that the card sets itself."""
        own = card.model_dump(exclude_unset=True)
        places = [(own.get(table, {}) if table else own, names) for table, names in _PLACES.items()]
        said = {name for part, names in places for field, name in names.items() if field in part}
        return replace(self, **dict.fromkeys(said))

    def onto(self, card: Card) -> Card:
        """The card with these fields in place of its own. Raises ValueError if they do not fit together."""
        own = card.model_dump(exclude_unset=True)
        tables = self._tables()
        parts = {name: {**own.get(name, {}), **tables[name]} for name in ("input", "output") if tables[name]}
        try:
            return Card.model_validate({**own, **tables[""], **parts})
        except ValidationError as error:
            raise ValueError(validation_message(error)) from None

    def toml(self) -> str:
        """The text of the card."""
        tables = self._tables()
        if self.labels:
            tables["output"]["labels"] = LABELS
        return "\n".join(table(name, values) for name, values in tables.items() if values)

    def _tables(self) -> dict[str, dict[str, Any]]:
        """The given fields by the card's tables; top-level ones under ""."""
        return {
            table: {field: getattr(self, name) for field, name in names.items() if getattr(self, name) is not None}
            for table, names in _PLACES.items()
        }


def table(name: str, values: dict[str, Any]) -> str:
    """A table of a card as TOML; without a name its top-level lines. JSON's scalars and lists are valid TOML."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join([*([f"[{name}]"] if name else []), *lines, ""])
