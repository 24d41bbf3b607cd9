"""What a model file declares about its input: a trace by the shapes of its sample, an exported program by those of its
inputs, Ultralytics by a description. Nothing in the file is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lightwell_server.importing.given import Given
from lightwell_server.models.card import Card
from lightwell_server.models.lifting.sampled import Sampled, sampled_in

CHANNELS = (1, 3)
"""The channels of pictures. If either the first or the last size is one of these, it is taken for the channels."""
MOST = 64
"""The most channels of a tensor that is not a picture."""


@dataclass(frozen=True)
class Declared:
    """What is known about a model and, by the card's fields, the part of the file that declares it."""

    given: Given = field(default_factory=Given)
    sources: Mapping[str, str] = field(default_factory=dict)


def completed(given: Given, path: Path, card: Card) -> Declared:
    """What is given, completed by what the file declares and the card does not say."""
    found = declared(path, given.kind or card.kind)
    used = found.given.beyond(card)
    sources = {name: source for name, source in found.sources.items() if getattr(used, name) is not None}
    return Declared(given.over(used), {name: sources[name] for name in sources if getattr(given, name) is None})


def declared(path: Path, kind: str) -> Declared:
    """What the file declares about a model of a kind; what cannot be read is left out."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2] or name: name for name in archive.namelist()}
        found = Declared()
        for read, source in ((sampled_in, "the trace's sample"), (_exported, "the program's input")):
            tensor = read(archive, members)
            if tensor is not None:
                found = _from(_form(tensor, kind), source)
        described = _from(_described(archive, members, found.given.channels or 3), "the file's description")
        return Declared(described.given.over(found.given), {**found.sources, **described.sources})
    return Declared()


def _from(given: Given, source: str) -> Declared:
    return Declared(given, {name: source for name, value in vars(given).items() if value is not None})


def _form(tensor: Sampled, kind: str) -> Given:
    """The card's fields that follow from an input's sizes; for a generator the length of its codes."""
    sizes = tensor.sizes
    if kind == "generator":
        return Given(code=sizes[1]) if len(sizes) == 2 else Given()
    if len(sizes) not in (3, 4):
        return Given()
    first, second, last = sizes[-3:]
    fewest = last is not None and last <= MOST and None not in (first, second) and last < min(first or 0, second or 0)
    behind = first not in CHANNELS and (last in CHANNELS or fewest)
    channels, height, width = (last, first, second) if behind else (first, second, last)
    return Given(
        size=(height, width) if height and width else None,
        channels=channels if channels and channels <= MOST and channels != 3 else None,
        layout="nhwc" if behind else None,
        input_dtype="uint8" if tensor.integers else None,
        batch=False if len(sizes) == 3 else None,
    )


_BYTE = 1
"""An exported program's code for uint8."""


def _exported(archive: zipfile.ZipFile, members: Mapping[str, str]) -> Sampled | None:
    """The first input of an exported program."""
    names = {"serialized_exported_program.json", *(name for name in members if name.startswith("models/"))}
    texts = [archive.read(members[name]) for name in names & members.keys() if name.endswith(".json")]
    with suppress(ValueError, KeyError, TypeError, IndexError, StopIteration):
        module = json.loads(texts[0])["graph_module"]
        specs = (spec.get("user_input") for spec in module["signature"]["input_specs"])
        name = next(spec["arg"]["as_tensor"]["name"] for spec in specs if spec)
        tensor = module["graph"]["tensor_values"][name]
        return Sampled(tuple(size.get("as_int") for size in tensor["sizes"]), tensor["dtype"] == _BYTE)
    return None


def _described(archive: zipfile.ZipFile, members: Mapping[str, str], channels: int) -> Given:
    """Ultralytics' description in the archive: the size of images and the classes' names. If it names Ultralytics as
    author, the model takes pixels without normalisation."""
    if "extra/config.txt" not in members:
        return Given()
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        description = json.loads(archive.read(members["extra/config.txt"]))
        plain = description.get("author") == "Ultralytics"
        return Given(
            size=_size(description.get("imgsz") or description.get("shape", [])[-2:]),
            labels=_names(description.get("names") or []),
            mean=(0.0,) * channels if plain else None,
            std=(1.0,) * channels if plain else None,
        )
    return Given()


def _size(size: int | list[int]) -> tuple[int, int] | None:
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    return (int(height), int(width)) if height and width else None


def _names(names: list[str] | dict[str, str]) -> tuple[str, ...] | None:
    """The names in the order of their indices."""
    ordered = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
    return tuple(map(str, ordered)) or None
