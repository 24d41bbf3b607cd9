"""`lightwell models list | show | add | check`; `load` and `unload` are in `admin`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightwell.cli import formatting
from lightwell.cli.card_options import CardOptions
from lightwell.cli.connection import Server, asking
from lightwell.cli.option_groups import taking
from lightwell.cli.options import model_names
from lightwell.cli.terminal import Json, say, sentences, table
from lightwell.serving import missing
from lightwell.v1 import models_pb2

if TYPE_CHECKING:  # the SDK runs without the server
    from lightwell_server.importing.inspection import Inspection

app = typer.Typer(help="Lists, shows, adds, checks, loads and unloads models.", no_args_is_help=True)


@app.command("list")
@asking
def list_models(server: Server, as_json: Json = False) -> None:
    """Every version of every model."""
    with server.client() as client:
        for model in client.models():
            shown = formatting.plain(model)
            words = (shown[key] for key in ("name", "version", "kind", "state", "reason"))
            say(shown if as_json else "  ".join(word for word in words if word not in ("", "unspecified")))


@app.command()
@asking
def show(
    server: Server,
    name: Annotated[
        str, typer.Argument(help="The model's name; may be left out if there is only one.", autocompletion=model_names)
    ] = "",
    version: Annotated[str, typer.Option(help="Its version; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """A model's card, its layers, and which methods apply."""
    with server.client() as client:
        model = client.model(name, version)
        if as_json:
            say(formatting.plain(model))
        else:
            _shown(model)


@app.command()
@taking("card", CardOptions)
def add(
    source: Annotated[str, typer.Argument(help="A TorchScript or torch.export file, torchvision/NAME or timm/NAME.")],
    repository: Annotated[Path, typer.Option(help="The directory of models that a server is given.")],
    card: CardOptions,
    name: Annotated[str, typer.Option(help="The model's name; else from the source.")] = "",
    version: Annotated[str, typer.Option(help="Its version; else the next whole number.")] = "",
    picture: Annotated[
        Path | None, typer.Option(help="An image on which the scores are checked at each load; else one is drawn.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Of torchvision or timm: download nothing.")
    ] = False,
) -> None:
    """Brings a model into a repository, and proves that it can be explained."""
    with sentences():
        _needs_server()
        from lightwell_server.importing.add import add as bring

        added = bring(source, repository, name, version, card.given(), random_weights, picture)
        model = added.model
        classes = f", {model.facts.classes} classes" if model.facts.classes else ""
        checked = f", checked on {model.card.check.picture}" if model.card.check else ""
        say(
            f"{model.name} version {model.version} is in {repository}: {len(model.facts.layers)} layers"
            f"{classes}{checked}"
        )
        for name, reason in added.reasons.items():
            say(f"  {name} {reason}")
        for note in added.notes:
            say(f"  {note}")


@app.command()
@taking("card", CardOptions)
def check(
    file: Annotated[Path, typer.Argument(help="A TorchScript or torch.export file; a card.toml beside it is read.")],
    card: CardOptions,
    as_json: Json = False,
) -> None:
    """Whether a file can be explained, and by which methods; no server is asked."""
    with sentences():
        _needs_server()
        from lightwell_server.importing import inspection

        try:
            found = inspection.inspect(file, card.given())
        except ValueError as error:
            if not as_json:
                raise
            say({"file": str(file), "refused": str(error)})
            raise typer.Exit(1) from None
        if as_json:
            say(asdict(found))
        else:
            _inspected(found)


def _needs_server() -> None:
    """Raises OSError if lightwell[server] is not installed."""
    if reason := missing():
        raise OSError(reason)


def _inspected(found: Inspection) -> None:
    sizes = "any size" if found.any_size else "no other size"
    facts = {
        "input": f"codes of length {found.input[0]}" if len(found.input) == 1 else f"{_shape(found.input)}, {sizes}",
        "output": f"{found.classes} classes, activation {found.activation}" if found.classes else _shape(found.output),
        "numbers": f"weights {found.weights}, computed in {found.computed}",
        "rows": "in batches" if found.batches else "row by row",
        "layers": f"{found.modules} of modules, {found.operations} of operations",
        "check": "the card's picture has its scores" if found.checked else "",
        "seconds": f"{found.seconds:.1f}",
    }
    say(f"{found.file} can be explained: a {found.kind}")
    for name, fact in facts.items():
        if fact:
            say(f"  {name:<8} {fact}")
    for name, reason in found.reasons.items():
        say(f"  chosen   {name} {reason}")
    for note in found.notes:
        say(f"  note     {note}")
    say("")
    say(table(("method", ""), _supported(found)))


def _supported(found: Inspection) -> Iterable[tuple[str, str]]:
    return ((m.method, _chosen(m.layers, m.choice) if m.applies else m.reason) for m in found.methods)


def _shown(model: models_pb2.GetModelResponse) -> None:
    summary, card, shown = model.summary, model.card, formatting.plain(model)
    say(f"{summary.name} version {summary.version}, {shown['summary']['kind']}, {summary.digest[:12]}")
    sizes = "any size" if model.any_size else "no other size"
    say(f"  input {card.height} x {card.width} of images resized to {card.resize}; {sizes} can be sent")
    form = [shown["card"]["order"], shown["card"]["layout"], *(["uint8"] if card.integers else [])]
    say(f"  taken as {', '.join(form)}{', one image at a time' if card.HasField('batch') and not card.batch else ''}")
    say(f"  channels {card.channels}, mean {_numbers(card.mean)}, std {_numbers(card.std)}")
    say(f"  computed in {shown['dtype']}, {'in batches' if model.batches else 'row by row'}")
    say(f"  outputs: {', '.join(map(_output, model.outputs))}")
    if card.labels:
        say(f"  {len(card.labels)} classes: {', '.join(card.labels[:12])}{' ...' if len(card.labels) > 12 else ''}")
    for note in model.notes:
        say(f"  note: {note}")
    say("")
    say(table(("layer", "type", "shape", "places", "cost"), (_layer(layer) for layer in model.layers)))
    say("")
    methods = ((m.method, _chosen(m.default_layers, m.choice) if m.applies else m.reason) for m in model.methods)
    say(table(("method", ""), methods))


def _chosen(layers: Iterable[str], choice: str) -> str:
    """A method's default layers, and the reason of that choice."""
    return f"{', '.join(layers)}: {choice}" if choice else "applies"


def _output(output: models_pb2.Output) -> str:
    beside = "" if output.main else " (beside the main one)"
    return f"{output.path or 'output'} {_shape(output.shape) or 'one number'}{beside}"


def _layer(layer: models_pb2.Layer) -> tuple[str, ...]:
    aliases = f" ({', '.join(layer.aliases)})" if layer.aliases else ""
    return layer.name + aliases, layer.type, _shape(layer.shape), _places(layer), f"{layer.share:.1%}"


def _places(layer: models_pb2.Layer) -> str:
    """Rows and columns of a layer's grid, and the numbers of tokens outside of it."""
    if not layer.HasField("grid"):
        return ""
    spare = {"in front": layer.grid.front, "behind": layer.grid.behind}
    return ", ".join((_shape((layer.grid.rows, layer.grid.columns)), *(f"{n} {at}" for at, n in spare.items() if n)))


def _shape(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
