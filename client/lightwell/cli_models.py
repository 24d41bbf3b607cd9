"""`lightwell models list | show | add | check`; `load` and `unload` are in `cli_admin`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightwell import tell
from lightwell.asking import Server, asking
from lightwell.options import model_names
from lightwell.parameters import Usage
from lightwell.serving import missing
from lightwell.terminal import Json, say, sentences, table
from lightwell.v1 import models_pb2

if TYPE_CHECKING:  # the SDK runs without the server
    from lightwell_server.bring.inspection import Inspection

app = typer.Typer(help="Lists, shows, adds, checks, loads and unloads models.", no_args_is_help=True)

Kind = StrEnum("Kind", ["classifier", "stylizer", "generator"])
Channels = StrEnum("Channels", {"GREY": "1", "RGB": "3"})
Interpolation = StrEnum("Interpolation", ["bilinear", "bicubic", "nearest"])
Activation = StrEnum("Activation", ["softmax", "sigmoid", "none"])
Floating = StrEnum("Floating", ["float32", "float64", "float16", "bfloat16"])

KindOption = Annotated[Kind | None, typer.Option(help="What the model is; else a classifier.")]
SizeOption = Annotated[str, typer.Option(help="The input's side in pixels, or HEIGHTxWIDTH.")]
ChannelsOption = Annotated[Channels | None, typer.Option(help="Of the input: 3 for RGB, 1 for luminance; else 3.")]
MeanOption = Annotated[str, typer.Option(help="R,G,B: subtracted from pixels in [0, 1].")]
StdOption = Annotated[str, typer.Option(help="R,G,B: what pixels are then divided by.")]
CodeOption = Annotated[int | None, typer.Option(min=1, help="Of a generator: the length of its codes.")]
OutputOption = Annotated[
    str | None, typer.Option(help="Which output, if there are several: names and numbers joined by dots.")
]


@app.command("list")
@asking
def list_models(server: Server, as_json: Json = False) -> None:
    """Every version of every model."""
    with server.client() as client:
        for model in client.models():
            told = tell.plain(model)
            words = (told[key] for key in ("name", "version", "kind", "state", "reason"))
            say(told if as_json else "  ".join(word for word in words if word not in ("", "unspecified")))


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
            say(tell.plain(model))
        else:
            _shown(model)


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="A file .pt or .pt2, torchvision/NAME or timm/NAME.")],
    repository: Annotated[Path, typer.Option(help="The directory of models that a server is given.")],
    name: Annotated[str, typer.Option(help="The model's name; else from the source.")] = "",
    version: Annotated[str, typer.Option(help="Its version; else the next whole number.")] = "",
    kind: KindOption = None,
    size: SizeOption = "",
    resize: Annotated[int | None, typer.Option(min=1, help="The shorter side in pixels before the crop.")] = None,
    interpolation: Annotated[Interpolation | None, typer.Option(help="How images are resized; else bilinear.")] = None,
    channels: ChannelsOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
    code: CodeOption = None,
    output: OutputOption = None,
    activation: Annotated[
        Activation | None, typer.Option(help="What makes probabilities of scores; else the file's own, or softmax.")
    ] = None,
    dtype: Annotated[
        Floating | None, typer.Option(help="The type of numbers computed with; else the server's.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A file with the classes' names, one a line.")] = None,
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
        from lightwell_server.bring.add import Given
        from lightwell_server.bring.add import add as bring

        given = Given(
            kind=kind and kind.value,
            dtype=dtype and dtype.value,
            size=_size(size),
            resize=resize,
            interpolation=interpolation and interpolation.value,
            channels=int(channels) if channels else None,
            mean=_each("--mean", mean),
            std=_each("--std", std),
            code=code,
            path=output,
            activation=activation and activation.value,
            labels=_lines(labels) if labels else None,
        )
        added = bring(source, repository, name, version, given, random_weights, picture)
        model = added.model
        classes = f", {model.facts.classes} classes" if model.facts.classes else ""
        checked = f", checked on {model.card.check.picture}" if model.card.check else ""
        say(
            f"{model.name} version {model.version} is in {repository}: {len(model.facts.layers)} layers"
            f"{classes}{checked}"
        )
        for note in added.notes:
            say(f"  {note}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A file .pt or .pt2; a card.toml beside it is read.")],
    kind: KindOption = None,
    size: SizeOption = "",
    channels: ChannelsOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
    code: CodeOption = None,
    output: OutputOption = None,
    as_json: Json = False,
) -> None:
    """Whether a file can be explained, and by which methods; no server is asked."""
    with sentences():
        _needs_server()
        from lightwell_server.bring import inspection
        from lightwell_server.bring.given import Given

        given = Given(
            kind=kind and kind.value,
            size=_size(size),
            channels=int(channels) if channels else None,
            mean=_each("--mean", mean),
            std=_each("--std", std),
            code=code,
            path=output,
        )
        try:
            found = inspection.inspect(file, given)
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
    """Raises OSError where lightwell[server] is not installed."""
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
    for note in found.notes:
        say(f"  note     {note}")
    say("")
    say(table(("method", ""), ((method.method, method.reason or "applies") for method in found.methods)))


def _shown(model: models_pb2.GetModelResponse) -> None:
    summary, card, told = model.summary, model.card, tell.plain(model)
    say(f"{summary.name} version {summary.version}, {told['summary']['kind']}, {summary.digest[:12]}")
    sizes = "any size" if model.any_size else "no other size"
    say(f"  input {card.height} x {card.width} of images resized to {card.resize}; {sizes} can be sent")
    say(f"  channels {card.channels}, mean {_numbers(card.mean)}, std {_numbers(card.std)}")
    say(f"  computed in {told['dtype']}, {'in batches' if model.batches else 'row by row'}")
    say(f"  outputs: {', '.join(map(_output, model.outputs))}")
    if card.labels:
        say(f"  {len(card.labels)} classes: {', '.join(card.labels[:12])}{' ...' if len(card.labels) > 12 else ''}")
    for note in model.notes:
        say(f"  note: {note}")
    say("")
    say(table(("layer", "type", "shape", "cost"), (_layer(layer) for layer in model.layers)))
    say("")
    methods = ((m.method, (", ".join(m.default_layers) or "applies") if m.applies else m.reason) for m in model.methods)
    say(table(("method", ""), methods))


def _output(output: models_pb2.Output) -> str:
    beside = "" if output.main else " (beside the main one)"
    return f"{output.path or 'output'} {_shape(output.shape) or 'one number'}{beside}"


def _layer(layer: models_pb2.Layer) -> tuple[str, ...]:
    aliases = f" ({', '.join(layer.aliases)})" if layer.aliases else ""
    return layer.name + aliases, layer.type, _shape(layer.shape), f"{layer.share:.1%}"


def _shape(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text("utf-8").splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None


def _size(text: str) -> tuple[int, int] | None:
    words = text.split("x") if text else []
    if not all(word.isdecimal() and int(word) for word in words) or len(words) > 2:
        raise Usage(f"--size {text}: write 224 or 224x320")
    return (int(words[0]), int(words[-1])) if words else None


def _each(option: str, text: str) -> tuple[float, ...] | None:
    try:
        values = tuple(float(word) for word in text.split(",")) if text else None
    except ValueError:
        values = ()
    if values is not None and len(values) not in (1, 3):
        raise Usage(f"{option} {text}: write three numbers, R,G,B, or one for a model of one channel")
    return values
