"""The models on disk: `repository/<name>/<version>/model.pt` or `model.pt2`, beside it `card.toml`."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lightwell_server import metrics
from lightwell_server.ask import OUTPUT, Facts
from lightwell_server.errors import LightwellError, NotFound, Refused, Unavailable, nearest
from lightwell_server.models import card as cards
from lightwell_server.models.card import Card
from lightwell_server.models.graph import Graph
from lightwell_server.models.lift import lift

log = logging.getLogger(__name__)

FILES = ("model.pt", "model.pt2")


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


class Store:
    """All versions of all models. A version that is refused takes nothing else down."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Model | RefusedModel]] = {}
        self._loaded = False

    def load(self, repository: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Loads every version of every model of a repository."""
        for directory in sorted(path for path in repository.glob("*/*") if path.is_dir()):
            if any((directory / file).exists() for file in FILES):
                self.add(_load(directory, repository, device, dtype))
        self._loaded = True

    def add(self, model: Model | RefusedModel) -> None:
        """Adds a version, or replaces it."""
        self._models.setdefault(model.name, {})[model.version] = model
        metrics.model_loads.labels("ready" if isinstance(model, Model) else "refused").inc()

    def all(self) -> list[Model | RefusedModel]:
        """Every version, by name, the newest of a model last. Raises Unavailable while models are being loaded."""
        if not self._loaded:
            raise Unavailable("the models are still being loaded; try again soon", reason="NOT_READY")
        return [versions[v] for _, versions in sorted(self._models.items()) for v in sorted(versions, key=_natural)]

    def ready(self) -> list[Model]:
        """Every version that answers."""
        return [model for model in self.all() if isinstance(model, Model)]

    def get(self, name: str = "", version: str = "") -> Model:
        """A version that answers; without a name the only model, without a version the newest. Raises NotFound or
        Refused."""
        ready_names = {model.name for model in self.ready()} or set(self._models)
        if not name and len(ready_names) == 1:
            (name,) = ready_names
        if name not in self._models:
            known = sorted(self._models)
            raise NotFound(
                f"there is no model {name!r}; {nearest(name, known)}" if name else f"name a model: {', '.join(known)}",
                reason="MODEL_NOT_FOUND",
                resource_name=name,
            )
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
    """Reads card and file of one version and lifts it. Raises `Refused`."""
    card, labels = cards.read(directory, repository)
    path = next(directory / file for file in FILES if (directory / file).exists())
    return load_file(path, card, labels, directory.parent.name, directory.name, device, dtype)


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
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    graph = lift(path, card.sample()).to(device, dtype)
    facts = facts_of(graph, card)
    if labels and facts.classes and len(labels) != facts.classes:
        raise Refused(f"the card has {len(labels)} labels and the model {facts.classes} classes", reason="BAD_CARD")
    unknown = [name for names in card.default_layers.values() for name in names if facts.layer(name) is None]
    if unknown:
        close = nearest(unknown[0], [layer.name for layer in facts.layers])
        raise Refused(f"the card names a layer {unknown[0]!r}; {close}", reason="BAD_CARD")
    return Model(name, version, digest, card, labels, graph, facts)


def facts_of(graph: Graph, card: Card) -> Facts:
    """What methods may know of a model."""
    output = graph.nodes[OUTPUT].meta["shape"]
    kind: Literal["classifier", "stylizer", "generator"] = card.kind
    return Facts(
        layers=graph.layers,
        size=card.input.size,
        mean=(card.input.mean[0], card.input.mean[1], card.input.mean[2]),
        kind=kind,
        classes=output[1] if kind == "classifier" and len(output) == 2 else 0,
        any_size=graph.any_size,
        has_relu=graph.has_relu,
        attended=graph.attended,
        defaults=card.default_layers,
    )


def _natural(version: str) -> list[tuple[int, str]]:
    """Orders versions as people do: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]
