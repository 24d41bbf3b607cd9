"""The models on disk: `repository/<name>/<version>/model.pt` or `model.pt2`, beside it `card.toml`."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from lightwell_server import metrics
from lightwell_server.ask import OUTPUT, Activation, Facts
from lightwell_server.errors import LightwellError, NotFound, Refused, Unavailable, nearest
from lightwell_server.models import card as cards
from lightwell_server.models import check
from lightwell_server.models.card import Card
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.lift import lift

log = logging.getLogger(__name__)

FILES = ("model.pt", "model.pt2")
LOADERS = 2
"""Files that are lifted at a time."""


@dataclass(frozen=True, eq=False)
class Model:
    """A version that answers."""

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


@dataclass(frozen=True)
class RefusedModel:
    """A version that does not answer, and why."""

    name: str
    version: str
    reason: str


@dataclass(frozen=True)
class LoadingModel:
    """A version that is still being read."""

    name: str
    version: str


Version = Model | RefusedModel | LoadingModel


class Store:
    """All versions of all models. Each answers as soon as it is lifted; one that is refused takes nothing else down
    and makes nobody wait."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Version]] = {}
        self._directories: list[Path] = []

    def expect(self, repository: Path) -> None:
        """Finds every version of every model of a repository; small files will be loaded first."""
        found = [path for path in repository.glob("*/*") if any((path / file).exists() for file in FILES)]
        self._directories = sorted(found, key=lambda directory: _file(directory).stat().st_size)
        for directory in self._directories:
            self._put(LoadingModel(directory.parent.name, directory.name))

    def load(
        self,
        repository: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        decided: Callable[[Version], object] = lambda version: None,
    ) -> None:
        """Loads what is expected, several files at a time; `decided` is called for each as it is ready or refused."""
        with ThreadPoolExecutor(LOADERS, thread_name_prefix="lift") as threads:
            loads = [threads.submit(_load, path, repository, device, dtype) for path in self._directories]
            for load in as_completed(loads):
                self.add(load.result())
                decided(load.result())

    def add(self, model: Version) -> None:
        """Adds a version, or replaces it."""
        self._put(model)
        metrics.model_loads.labels("ready" if isinstance(model, Model) else "refused").inc()

    def _put(self, model: Version) -> None:
        self._models.setdefault(model.name, {})[model.version] = model

    def all(self) -> list[Version]:
        """Every version, by name, the newest of a model last."""
        return [versions[v] for _, versions in sorted(self._models.items()) for v in sorted(versions, key=_natural)]

    def ready(self) -> list[Model]:
        """Every version that answers now."""
        return [model for model in self.all() if isinstance(model, Model)]

    def get(self, name: str = "", version: str = "") -> Model:
        """A version that answers; without a name the only model, without a version the newest. Raises NotFound or
        Refused."""
        alive = {model.name for model in self.all() if not isinstance(model, RefusedModel)} or set(self._models)
        if not name and len(alive) == 1:
            (name,) = alive
        if name not in self._models:
            known = sorted(self._models)
            raise NotFound(
                f"there is no model {name!r}; {nearest(name, known)}" if name else f"name a model: {', '.join(known)}",
                reason="MODEL_NOT_FOUND",
                resource_name=name,
            )
        return self._answering(name, version)

    def _answering(self, name: str, version: str) -> Model:
        """A version of a model that there is; without one the newest that answers, else the newest."""
        versions = self._models[name]
        ready = [v for v in sorted(versions, key=_natural) if isinstance(versions[v], Model)]
        version = version or (ready or sorted(versions, key=_natural))[-1]
        if version not in versions:
            raise NotFound(
                f"model {name} has no version {version!r}; it has {', '.join(versions)}",
                reason="VERSION_NOT_FOUND",
                resource_name=f"{name}@{version}",
            )
        model = versions[version]
        if isinstance(model, RefusedModel):
            raise Refused(f"model {name}@{version} was refused: {model.reason}")
        if isinstance(model, LoadingModel):
            raise Unavailable(f"model {name}@{version} is still being loaded; try again soon", reason="NOT_READY")
        return model


def _load(directory: Path, repository: Path, device: str, dtype: torch.dtype) -> Model | RefusedModel:
    name, version = directory.parent.name, directory.name
    try:
        model = load_version(directory, repository, device, dtype)
        log.info("model %s is ready: %d layers, %s", model.id, len(model.facts.layers), model.digest[:12])
        return model
    except LightwellError as error:
        log.warning("model %s@%s is refused: %s", name, version, error.message)
        return RefusedModel(name, version, error.message)
    except Exception as error:  # one bad directory must take nothing else down
        log.exception("model %s@%s could not be read", name, version)
        return RefusedModel(name, version, f"it could not be read: {error}")


def load_version(directory: Path, repository: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Reads card and file of one version, lifts it and verifies the card's picture. Raises `Refused`."""
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
    graph = lift(path, card.sample())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    graph.name(card.names)
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
    output = graph.nodes[OUTPUT].meta["shape"]
    classes = output[1] if card.kind == "classifier" and len(output) == 2 else 0
    red, green, blue = card.input.mean if card.input.channels == 3 else card.input.mean * 3
    return Facts(
        layers=graph.layers,
        size=card.input.size,
        mean=(red, green, blue),
        kind=card.kind,
        classes=classes,
        any_size=graph.any_size,
        has_relu=graph.has_relu,
        activation=_activation(graph, card, classes),
        attended=graph.attended,
        defaults=card.default_layers,
    )


def _activation(graph: Graph, card: Card, classes: int) -> Activation:
    """The card's, else the file's own, else softmax; a single value, and what has been through an activation, is no
    score of a class."""
    if card.output.activation is not None:
        return card.output.activation
    if graph.activation is not None:
        return graph.activation if card.output.scores == "before_activation" else "none"
    return "softmax" if classes > 1 else "none"


def _file(directory: Path) -> Path:
    return next(directory / file for file in FILES if (directory / file).exists())


def _natural(version: str) -> list[tuple[int, str]]:
    """Orders versions as people do: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]
