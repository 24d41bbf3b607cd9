"""Brings models into a repository: one's own file, or one of torchvision. What cannot be explained does not stay."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightwell_server.errors import LightwellError, nearest
from lightwell_server.models.store import Model, load_version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Given:
    """What is written into the card; what is None is left to the card's defaults."""

    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None

    def over(self, other: Given) -> Given:
        """This, and where it says nothing the other."""
        return replace(other, **{name: value for name, value in vars(self).items() if value is not None})

    def toml(self) -> str:
        """The card."""
        numbers = {"size": self.size, "resize": self.resize, "mean": self.mean, "std": self.std}
        lines = [
            f"{key} = {[*value] if isinstance(value, tuple) else value}" for key, value in numbers.items() if value
        ]
        labels = ["", "[output]", 'labels = "labels.txt"'] if self.labels else []
        return "\n".join(["[input]", *lines, *labels, ""])


def add(source: str, repository: Path, name: str, version: str, given: Given, random_weights: bool = False) -> Model:
    """Puts a model file, or `torchvision/<name>`, into `repository/<name>/<version>` and lifts it there. Raises
    ValueError or OSError in a sentence; then the repository is as before."""
    origin, _, called = source.partition("/")
    if origin == "torchvision" and called and not Path(source).exists():
        network, card = _torchvision(called, random_weights)
        return _placed(repository, name or called, version, "model.pt", _scripted(network), given.over(card))
    path = Path(source)
    if path.suffix not in (".pt", ".pt2"):
        raise ValueError(f"{source} is neither a .pt or .pt2 file nor torchvision/<name>")
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file", source)
    return _placed(repository, name or path.stem, version, f"model{path.suffix}", partial(shutil.copyfile, path), given)


def _placed(
    repository: Path, name: str, version: str, file: str, write: Callable[[Path], object], given: Given
) -> Model:
    """Writes the version's directory and proves the model; takes the directory away again if that fails."""
    model = repository / _named("name", name)
    directory = model / (_named("version", version) if version else _next(model))
    if directory.exists():
        raise ValueError(f"{directory} is there already; give another --version")
    fresh = next(path for path in (repository, model, directory) if not path.exists())
    directory.mkdir(parents=True)
    try:
        write(directory / file)
        (directory / "card.toml").write_text(given.toml())
        if given.labels:
            (directory / "labels.txt").write_text("\n".join(given.labels) + "\n")
        return load_version(directory, repository)
    except LightwellError as error:
        shutil.rmtree(fresh)
        raise ValueError(f"the model is refused: {error.message}") from error
    except BaseException:
        shutil.rmtree(fresh)
        raise


def _named(what: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no {what}; use letters, digits, dots, hyphens and underscores")
    return text


def _next(model: Path) -> str:
    """The whole number after the highest version there is."""
    return str(1 + max((int(path.name) for path in model.glob("*") if path.name.isdecimal()), default=0))


def _scripted(network: torch.nn.Module) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(network.eval()).save(str(place))

    return write


def _torchvision(name: str, random_weights: bool) -> tuple[torch.nn.Module, Given]:
    """A classifier with its published weights, or without, and the card that belongs to them."""
    try:
        from torchvision import models
    except ImportError:
        raise ValueError("torchvision cannot be found; install torchvision") from None
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}; {nearest(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: torch.nn.Module = models.get_model(name, weights=None if random_weights else weights)
    except OSError as error:
        raise ValueError(
            f"the weights of {name} cannot be downloaded ({getattr(error, 'reason', error)}); "
            "export the model elsewhere and add its file, or give --random-weights"
        ) from error
    return network, _published(weights)


def _published(weights: Any) -> Given:  # noqa: ANN401 - torchvision is not typed
    """The card of published weights: their crop, resize, mean, standard deviation and categories."""
    form = weights.transforms()
    return Given(
        size=(form.crop_size[0], form.crop_size[-1]),
        resize=form.resize_size[0],
        mean=tuple(form.mean),
        std=tuple(form.std),
        labels=tuple(weights.meta["categories"]),
    )
