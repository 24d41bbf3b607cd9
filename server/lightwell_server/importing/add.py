"""Adds models to a repository, from a file, torchvision or timm. A model that cannot be explained is not added."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from lightwell_server.errors import LightwellError, Refused, last_line
from lightwell_server.importing import expected, published
from lightwell_server.importing.declared import Declared, completed
from lightwell_server.importing.expected import Picture, Reference, Unchecked
from lightwell_server.importing.given import LABELS, Given
from lightwell_server.importing.published import Published
from lightwell_server.importing.reasons import reasons
from lightwell_server.models import card as cards
from lightwell_server.models import check
from lightwell_server.models.card import Card
from lightwell_server.models.lifting import archive
from lightwell_server.models.lifting.pixels import example
from lightwell_server.models.store import Model, load_version

__all__ = ["Added", "Given", "add"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ORIGINS: dict[str, Callable[[str, bool], Published]] = {"torchvision": published.torchvision, "timm": published.timm}


@dataclass(frozen=True)
class Added:
    """A model that was added, the reason of each choice on its card, and notes on how it was added."""

    model: Model
    reasons: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A model before it is in the repository: its file's name there and the function that writes it, its card and what
    of it the file declares, and the reference for its scores; None for the file itself."""

    name: str
    file: str
    write: Callable[[Path], object]
    declared: Declared
    reference: Reference | None = None
    notes: tuple[str, ...] = ()

    @property
    def given(self) -> Given:
        """Its card."""
        return self.declared.given


def add(
    source: str,
    repository: Path,
    name: str,
    version: str,
    given: Given,
    random_weights: bool = False,
    picture: Path | None = None,
) -> Added:
    """Puts a model file, `torchvision/<name>` or `timm/<name>` into `repository/<name>/<version>`, lifts it there and
    writes a check on the picture, or on a drawn one. Raises ValueError or OSError with a message for the user; then the
    repository is unchanged."""
    checked_on = Picture.of(picture) if picture else Picture.drawn()
    origin, _, called = source.partition("/")
    if origin in _ORIGINS and called and not Path(source).exists():
        brought = _published(called, _ORIGINS[origin](called, random_weights), given)
    else:
        brought = _file(Path(source), given)
    return _placed(repository, name or brought.name, version, brought, checked_on)


def _file(path: Path, given: Given) -> _Source:
    if not path.exists():
        raise FileNotFoundError(2, "there is no such file, and it is no torchvision/<name> or timm/<name>", str(path))
    try:
        file = {"script": "model.pt", "program": "model.pt2"}[archive.form(path)]
    except Refused as error:
        raise ValueError(f"the model is refused: {error.message}") from None
    return _Source(path.stem, file, partial(shutil.copyfile, path), completed(given, path, Card()))


def _published(name: str, found: Published, given: Given) -> _Source:
    """A published network. If `given` changes the preprocessing, the publisher's is no longer the reference."""
    own = any((given.size, given.resize, given.interpolation, given.channels, given.mean, given.std))
    card = given.over(found.given)
    rows = tuple(example(card.onto(Card()).sample(), 2))
    reference = Reference(found.network, torch.float32, None if own else found.pixels)
    return _Source(name, "model.pt", partial(_write, name, found, rows), Declared(card), reference, found.notes)


def _write(name: str, found: Published, rows: tuple[torch.Tensor, ...], path: Path) -> None:
    try:
        found.write(found.network, rows, path)
    except Exception as error:  # a network may raise anything while it is traced
        raise ValueError(f"{name} cannot be written as TorchScript: {last_line(error)}") from error


def _placed(repository: Path, name: str, version: str, source: _Source, picture: Picture) -> Added:
    """Writes the version's directory and loads the model; removes the directory if that fails."""
    source.given.onto(Card())
    model = repository / _named("name", name)
    directory = model / (_named("version", version) if version else _next(model))
    if directory.exists():
        raise ValueError(f"{directory} is there already; give another --version")
    fresh = next(path for path in (repository, model, directory) if not path.exists())
    directory.mkdir(parents=True)
    try:
        source.write(directory / source.file)
        (directory / "card.toml").write_text(source.given.toml(), "utf-8")
        if source.given.labels:
            (directory / LABELS).write_text("\n".join(source.given.labels) + "\n", "utf-8")
        return _checked(load_version(directory, repository), directory, repository, source, picture)
    except LightwellError as error:
        shutil.rmtree(fresh)
        raise ValueError(f"the model is refused: {error.message}") from error
    except BaseException:
        shutil.rmtree(fresh)
        raise


def _checked(model: Model, directory: Path, repository: Path, source: _Source, picture: Picture) -> Added:
    """Adds the check to the card and verifies it as loading does. If there is none, a note says why."""
    chosen = reasons(model, source.declared)
    reference = source.reference or Reference.file(directory / source.file, model.card)
    try:
        found = expected.check(model, reference, picture)
    except Unchecked as reason:
        return Added(model, chosen, (*source.notes, f"the card has no check: {reason}"))
    with (directory / "card.toml").open("a", encoding="utf-8") as card:
        card.write("\n" + expected.text(found))
    (directory / picture.name).write_bytes(picture.data)
    written, _ = cards.read(directory, repository)
    check.verify(model.graph, written, directory, repository)
    return Added(replace(model, card=written), chosen, source.notes)


def _named(what: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no {what}; use letters, digits, dots, hyphens and underscores")
    return text


def _next(model: Path) -> str:
    """The integer after the highest version."""
    return str(1 + max((int(path.name) for path in model.glob("*") if path.name.isdecimal()), default=0))
