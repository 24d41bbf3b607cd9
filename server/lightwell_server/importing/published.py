"""Classifiers of torchvision and timm, each with its own preprocessing. Either library is imported only when it is
used."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image as Pil
from torch import Tensor

from lightwell_server.errors import nearest
from lightwell_server.importing.given import Given
from lightwell_server.importing.trace import script, trace
from lightwell_server.models.card import InputCard, Interpolation

PATIENCE = 5.0
"""Seconds after which timm's hub counts as unreachable."""


@dataclass(frozen=True)
class Published:
    """A network in eval mode, its card, and `pixels`: the publisher's preprocessing from a picture to rows, floating
    [3, height, width]. `write` writes it to a file, traced or scripted; a trace uses the rows given. `notes` say where
    the card cannot describe the preprocessing."""

    network: torch.nn.Module
    given: Given
    pixels: Callable[[Pil.Image], Tensor]
    write: Callable[[torch.nn.Module, tuple[Tensor, ...], Path], object]
    notes: tuple[str, ...] = ()


def torchvision(name: str, random_weights: bool) -> Published:
    """A classifier of torchvision with its published weights, or random ones. Raises ValueError."""
    try:
        from torchvision import models
    except ImportError:
        raise ValueError("torchvision cannot be found; install torchvision") from None
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}; {nearest(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    network = _made(name, lambda: models.get_model(name, weights=None if random_weights else weights))
    form = weights.transforms()
    given = Given(
        size=(form.crop_size[0], form.crop_size[-1]),
        resize=form.resize_size[0],
        interpolation=_interpolation(name, form.interpolation.value),
        antialias=None if form.antialias == InputCard().antialias else form.antialias,
        mean=tuple(form.mean),
        std=tuple(form.std),
        labels=tuple(weights.meta["categories"]),
    )
    return Published(network, given, form, lambda network, rows, path: script(network, path))


def timm(name: str, random_weights: bool) -> Published:
    """A network of timm with its published weights, or random ones. Raises ValueError."""
    try:
        import timm
        from timm import data
    except ImportError:
        raise ValueError("timm cannot be found; install timm") from None
    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known:
        raise ValueError(f"timm has no model {name!r}; {nearest(name, known)}")
    if not random_weights:
        _reachable(name, timm.get_pretrained_cfg(name))
    network = _made(name, partial(timm.create_model, name, pretrained=not random_weights))
    config = data.resolve_model_data_config(network)
    mode = config["crop_mode"]
    # A card describes only the central crop, with which torchvision's networks and most of timm's are published.
    pixels = data.create_transform(**{**config, "crop_mode": "center"}, is_training=False)
    squeezed = "squeezes the whole picture into the input" if mode == "squash" else "puts a border around the picture"
    notes = () if mode == "center" else (f"timm {squeezed} for {name}; here the middle is cropped",)
    return Published(network, declared(network), pixels, trace, notes)


def declared(network: torch.nn.Module) -> Given:
    """The preprocessing and the labels that a network of timm declares itself; nothing of any other network."""
    if not hasattr(network, "pretrained_cfg"):
        return Given()
    from timm import data

    config, subset = data.resolve_model_data_config(network), data.infer_imagenet_subset(network)
    size = config["input_size"][1:]
    return Given(
        size=size,
        resize=int(min(size) / config["crop_pct"]),
        interpolation=_interpolation(type(network).__name__, config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        labels=tuple(data.ImageNetInfo(subset).label_descriptions()) if subset else None,
    )


def _made(name: str, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network in eval mode; making it may download its weights."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return make().eval()
    except OSError as error:
        raise ValueError(_unreachable(name, getattr(error, "reason", error))) from error


def _reachable(name: str, config: Any) -> None:  # noqa: ANN401 - timm's
    """Raises ValueError if there are no weights, or if they are neither on disk nor can be downloaded. timm itself
    would retry for most of a minute."""
    if not config.has_weights:
        raise ValueError(f"timm publishes no weights of {name}; give --random-weights")
    if not config.hf_hub_id:
        return
    from huggingface_hub import HfApi, snapshot_download

    repository = config.hf_hub_id.partition("@")[0]
    try:
        snapshot_download(repository, local_files_only=True)
    except OSError:
        try:
            HfApi().model_info(repository, timeout=PATIENCE)
        except Exception as error:  # the errors of the hub's client differ between its major versions
            raise ValueError(_unreachable(name, error)) from error


def _unreachable(name: str, reason: object) -> str:
    lines = str(reason).strip().splitlines() or ["no reason given"]
    return (
        f"the weights of {name} cannot be downloaded ({lines[0].rstrip('.')}); "
        "export the model elsewhere and add its file, or give --random-weights"
    )


def _interpolation(name: str, interpolation: str) -> str | None:
    """The card's name of an interpolation; None for the card's default. Raises ValueError for one without a name."""
    known = get_args(Interpolation)
    if interpolation not in known:
        raise ValueError(f"{name} is published with {interpolation} interpolation; a card knows {', '.join(known)}")
    return None if interpolation == InputCard().interpolation else interpolation
