"""`lightwell models list | show | add`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lightwell import tell
from lightwell.parameters import Usage
from lightwell.serving import missing
from lightwell.terminal import LOCAL, Address, Json, connected, say, sentences
from lightwell.v1 import models_pb2

app = typer.Typer(help="Lists, shows and adds models.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: Json = False, server: Address = LOCAL) -> None:
    """Every version of every model."""
    with connected(server) as client:
        for model in client.models():
            told = tell.plain(model)
            words = (told[key] for key in ("name", "version", "kind", "state", "reason"))
            say(told if as_json else "  ".join(filter(None, words)))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The model's name; may be left out if there is only one.")] = "",
    version: Annotated[str, typer.Option(help="Its version; the newest if left out.")] = "",
    as_json: Json = False,
    server: Address = LOCAL,
) -> None:
    """A model's card, its layers, and which methods apply."""
    with connected(server) as client:
        model = client.model(name, version)
        if as_json:
            say(tell.plain(model))
        else:
            _shown(model)


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="A file .pt or .pt2, or torchvision/NAME.")],
    repository: Annotated[Path, typer.Option(help="The directory of models that a server is given.")],
    name: Annotated[str, typer.Option(help="The model's name; else from the source.")] = "",
    version: Annotated[str, typer.Option(help="Its version; else the next whole number.")] = "",
    size: Annotated[str, typer.Option(help="The input's side in pixels, or HEIGHTxWIDTH.")] = "",
    resize: Annotated[int | None, typer.Option(min=1, help="The shorter side in pixels before the crop.")] = None,
    mean: Annotated[str, typer.Option(help="R,G,B: subtracted from pixels in [0, 1].")] = "",
    std: Annotated[str, typer.Option(help="R,G,B: what pixels are then divided by.")] = "",
    labels: Annotated[Path | None, typer.Option(help="A file with the classes' names, one a line.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Of torchvision: download nothing.")] = False,
) -> None:
    """Brings a model into a repository, and proves that it can be explained."""
    with sentences():
        if reason := missing():
            raise OSError(reason)
        from lightwell_server import bring

        given = bring.Given(
            size=_size(size),
            resize=resize,
            mean=_triple("--mean", mean),
            std=_triple("--std", std),
            labels=tuple(labels.read_text().splitlines()) if labels else None,
        )
        model = bring.add(source, repository, name, version, given, random_weights)
        classes = f", {model.facts.classes} classes" if model.facts.classes else ""
        say(f"{model.name} version {model.version} is in {repository}: {len(model.facts.layers)} layers{classes}")


def _shown(model: models_pb2.GetModelResponse) -> None:
    summary, card = model.summary, model.card
    say(f"{summary.name} version {summary.version}, {tell.plain(summary)['kind']}, {summary.digest[:12]}")
    sizes = "any size" if model.any_size else "no other size"
    say(f"  input {card.height} x {card.width} of images resized to {card.resize}; {sizes} can be sent")
    say(f"  mean {_numbers(card.mean)}, std {_numbers(card.std)}")
    if card.labels:
        say(f"  {len(card.labels)} classes: {', '.join(card.labels[:12])}{' ...' if len(card.labels) > 12 else ''}")
    layers = Table("layer", "type", "shape", box=None, header_style="bold", pad_edge=False)
    for layer in model.layers:
        layers.add_row(layer.name, layer.type, " x ".join(map(str, layer.shape)))
    methods = Table("method", "", box=None, header_style="bold", pad_edge=False)
    for method in model.methods:
        layers_used = ", ".join(method.default_layers) or "applies"
        methods.add_row(method.method, layers_used if method.applies else method.reason)
    for table in (layers, methods):
        say("")
        Console().print(table)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _size(text: str) -> tuple[int, int] | None:
    words = text.split("x") if text else []
    if not all(word.isdecimal() and int(word) for word in words) or len(words) > 2:
        raise Usage(f"--size {text}: write 224 or 224x320")
    return (int(words[0]), int(words[-1])) if words else None


def _triple(option: str, text: str) -> tuple[float, float, float] | None:
    try:
        red, green, blue = (float(word) for word in text.split(",")) if text else (0.0, 0.0, 0.0)
    except ValueError:
        raise Usage(f"{option} {text}: write three numbers, R,G,B") from None
    return (red, green, blue) if text else None
