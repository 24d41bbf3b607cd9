"""Inspects a model file without a server: whether it can be explained, and by which methods."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lightwell_server.catalog import Method, catalog
from lightwell_server.contract import OUTPUT, Facts
from lightwell_server.errors import LightwellError
from lightwell_server.importing.declared import Declared, completed
from lightwell_server.importing.given import Given
from lightwell_server.importing.reasons import reasons
from lightwell_server.models import card as cards
from lightwell_server.models import check
from lightwell_server.models.store import Model, load_file


@dataclass(frozen=True)
class Support:
    """Whether a method applies, and if not, why; the layers that it uses by default, and the reason of that choice."""

    method: str
    applies: bool
    reason: str
    layers: tuple[str, ...] = ()
    choice: str = ""


@dataclass(frozen=True)
class Inspection:
    """A file that can be explained.

    - `input`, `output`: shapes without the batch: channels, height and width in pixels of an image, or the length of
      codes.
    - `classes`: 0 if it gives no scores.
    - `weights`, `computed`: the dtypes of its weights and of the computation.
    - `modules`, `operations`: the numbers of layers.
    - `checked`: whether the card has a check, which has then passed.
    - `reasons`: the reason of each choice, by what was chosen.
    - `seconds`: the time of the inspection."""

    file: str
    kind: str
    input: tuple[int, ...]
    any_size: bool
    classes: int
    output: tuple[int, ...]
    activation: str
    weights: str
    computed: str
    batches: bool
    modules: int
    operations: int
    checked: bool
    reasons: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    methods: tuple[Support, ...]


def inspect(path: Path, given: Given) -> Inspection:
    """Lifts a file by what is given and by the card in its folder, if any. Raises ValueError with the reason if it is
    refused, and OSError if it cannot be read."""
    if not path.exists():
        raise FileNotFoundError(2, "there is no such file", str(path))
    begun = time.perf_counter()
    try:
        model, found = _loaded(path, given)
    except LightwellError as error:
        raise ValueError(error.message) from error
    return _inspected(path, model, found, time.perf_counter() - begun)


def _loaded(path: Path, given: Given) -> tuple[Model, Declared]:
    """The file as a server would load it, and what it declares."""
    directory = path.resolve().parent
    repository = directory.parent.parent  # as in <repository>/<name>/<version>, where a card's files may lie
    written, labels = cards.read(directory, repository)
    found = completed(given, path, written)
    card = found.given.onto(written)
    labels = given.labels or labels or found.given.labels or ()
    model = load_file(path, card, labels, path.stem, directory.name)
    check.verify(model.graph, card, directory, repository)
    return model, found


def _inspected(path: Path, model: Model, found: Declared, seconds: float) -> Inspection:
    graph, facts, card = model.graph, model.facts, model.card
    operations = sum(layer.functional for layer in facts.layers)
    return Inspection(
        file=str(path),
        kind=card.kind,
        input=(card.input.code,) if card.kind == "generator" else (card.input.channels, *card.input.size),
        any_size=facts.any_size,
        classes=facts.classes,
        output=tuple(graph.nodes[OUTPUT].meta["shape"][1:]),
        activation=facts.activation,
        weights=_name(graph.weights),
        computed=_name(graph.dtype),
        batches=not graph.row_by_row,
        modules=len(facts.layers) - operations,
        operations=operations,
        checked=card.check is not None,
        reasons=reasons(model, found),
        notes=tuple(graph.notes),
        seconds=round(seconds, 2),
        methods=tuple(_support(method, facts) for method in catalog().values()),
    )


def _support(method: Method, facts: Facts) -> Support:
    reason = method.applies(facts)
    if reason is not None:
        return Support(method.name, False, reason)
    return Support(method.name, True, "", tuple(method.layers(facts)), method.reason(facts))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
