"""The models on disk: `repository/<name>/<version>/model.pt` or another of `FILES`, with `card.toml` in the same
folder."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lightwell_server.contract import EMBEDDING, Activation, Facts
from lightwell_server.errors import Refused, nearest
from lightwell_server.models import card as cards
from lightwell_server.models import check
from lightwell_server.models.card import Card
from lightwell_server.models.disk import WANT, natural, plain, shown, there
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.lift import lift

log = logging.getLogger(__name__)

FILES = tuple(f"model.{suffix}" for suffix in ("pt", "pt2", "torchscript", "ts", "jit", "ptl"))
"""The names that a version's file may have. Its content decides on its format."""
RENAME = (
    "a directory's name is no UTF-8, or has characters that cannot be printed, an @ or a backslash (shown here as"
    " \\x.., \\u...., \\\\); rename the directory"
)
"""Why a version is refused whose name cannot be sent."""
MISPLACED = "it lies in no directory of a version; move it to <model>/<version>/, such as {}/1/{}"
"""Why a file is refused that is one level too high."""


@dataclass(frozen=True, eq=False)
class Model:
    """A version that is ready."""

    name: str
    version: str
    digest: str
    card: Card
    labels: tuple[str, ...]
    graph: Graph
    facts: Facts

    @property
    def id(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"

    def at(self, size: tuple[int, int]) -> Model:
        """The same model, with its layers' shapes for images of another size. Raises InvalidArgument if it does not
        take it."""
        if size == self.graph.size:
            return self
        outputs = {path: self.graph.shape(node, size) for path, node in self.graph.outputs.items()}
        return replace(self, facts=replace(self.facts, layers=self.graph.layers_at(size), outputs=outputs))


def files(repository: Path) -> dict[tuple[str, str], Path]:
    """The model file of every version in a repository, by the `shown` names of model and version; the version of a file
    that lies outside of a version's directory is empty. Directories may come and go meanwhile; one that cannot be read
    is left out. Raises OSError if this machine can read nothing now."""
    found: dict[tuple[str, str], Path] = {}
    for model in repository.glob("*"):
        if model.name in FILES and not model.is_dir():
            found[shown(model.name), ""] = model
        try:
            directories = list(model.iterdir())
        except OSError as error:
            if error.errno in WANT:
                raise
            continue  # it is not a directory, or no longer exists
        for directory in directories:
            if directory.name in FILES and not directory.is_dir():
                found[shown(model.name), ""] = directory
            path = _file(directory)
            if there(path):
                found[shown(model.name), shown(directory.name)] = path
    return found


def located(path: Path, version: str = "") -> Path:
    """The model file that a path means: the file itself, that of a version's directory, or that of the version, by
    default the newest, of a model's directory. Raises FileNotFoundError saying what is missing."""
    if not path.is_dir():
        return path
    if there(own := _file(path)) and not version:
        return own
    found = {directory.name: _file(directory) for directory in path.iterdir() if there(_file(directory))}
    if not found:
        raise FileNotFoundError(f"{path} holds no model: no {FILES[0]}, and no version with one")
    if version and version not in found:
        raise FileNotFoundError(f"{path} has no version {version!r}; {nearest(version, sorted(found, key=natural))}")
    return found[version or max(found, key=natural)]


def load(repository: Path, name: str, version: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Loads a version of a repository. Raises `Refused` for every error: one bad directory must not affect others."""
    try:
        if not (plain(name) and plain(version)):
            raise Refused(RENAME)
        if not version:
            raise Refused(MISPLACED.format("net" if name in FILES else name, name if name in FILES else FILES[0]))
        model = load_version(repository / name / version, repository, device, dtype)
    except Refused as error:
        log.warning("model %s@%s is refused: %s", name, version, error.message)
        raise
    except Exception as error:
        log.exception("model %s@%s could not be read", name, version)
        raise Refused(f"it could not be read: {error}") from error
    log.info("model %s is ready: %d layers, %s", model.id, len(model.facts.layers), model.digest[:12])
    return model


def load_version(directory: Path, repository: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Reads card and file of one version, lifts it and verifies the card's check. Raises `Refused`."""
    card, labels = cards.read(directory, repository)
    model = load_file(_file(directory), card, labels, directory.parent.name, directory.name, device, dtype)
    check.verify(model.graph, card, directory, repository)
    return model


def load_file(
    path: Path,
    card: Card,
    labels: tuple[str, ...],
    name: str,
    version: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Lifts one file as a model. Raises `Refused`."""
    before = path.stat()
    graph = lift(path, card.sample(len(labels)), card.numbers(dtype))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    after = path.stat()
    if (before.st_mtime_ns, before.st_size, before.st_ino) != (after.st_mtime_ns, after.st_size, after.st_ino):
        raise Refused("its file has changed while it was read; move files into place when they are whole")
    graph.name(card.names)
    if card.tokens is not None:
        graph.lay(card.tokens.grid)
    facts = facts_of(graph.to(device, card.numbers(dtype)), card)
    if labels and facts.classes and len(labels) != facts.classes:
        raise Refused(f"the card has {len(labels)} labels and the model {facts.classes} classes", reason="BAD_CARD")
    unknown = [layer for layers in card.default_layers.values() for layer in layers if facts.layer(layer) is None]
    if unknown:
        close = nearest(unknown[0], [layer.name for layer in facts.layers])
        raise Refused(f"the card names a layer {unknown[0]!r}; {close}", reason="BAD_CARD")
    return Model(name, version, digest, card, labels, graph, facts)


def facts_of(graph: Graph, card: Card) -> Facts:
    """What methods may know of a model."""
    shape = graph.shape(graph.output)
    classes = shape[0] if card.kind == "classifier" and len(shape) == 1 else 0
    sample = card.sample()
    return Facts(
        layers=graph.layers,
        size=card.input.size,
        mean=sample.mean * 3 if sample.grey else sample.mean,
        channels=sample.channels,
        tensor=sample.tensor,
        kind=card.kind,
        classes=classes,
        any_size=graph.any_size,
        has_relu=graph.has_relu,
        activation=activation_of(graph, card, classes)[0],
        attended=graph.attended,
        pooled=graph.pooled,
        embeds=EMBEDDING in graph.nodes,
        outputs={path: graph.shape(node) for path, node in graph.outputs.items()},
        output=graph.path,
        defaults=card.default_layers,
    )


def activation_of(graph: Graph, card: Card, classes: int) -> tuple[Activation, str]:
    """What turns scores into probabilities, and the reason: the card's activation, else the file's own, else softmax. A
    single value, or the output of an activation, is not a score of a class. Raises `Refused` if the card applies an
    activation to the file's own."""
    if card.output.activation is not None:
        own = graph.activation if card.output.scores == "as_returned" else None
        if card.output.activation != "none" and own not in (None, "none"):
            raise Refused(
                f"the card applies {card.output.activation} to what the file's final {own} returns; leave "
                "output.activation or output.scores out",
                reason="BAD_CARD",
            )
        return card.output.activation, "as given"
    if graph.activation == "none":
        return "none", "the file returns probabilities"
    if graph.activation is not None and card.output.scores == "before_activation":
        return graph.activation, "the file ends in it, and scores are read before it"
    if graph.activation is not None:
        return "none", f"the scores are what the file's final {graph.activation} returns"
    if classes > 1:
        return "softmax", f"the file returns {classes} scores and ends in no activation"
    return "none", "a single score is no class of many" if classes else "the output is no scores of classes"


def _file(directory: Path) -> Path:
    """The file of a version, or the path where it should be."""
    paths = [directory / file for file in FILES]
    return next(filter(there, paths), paths[0])
