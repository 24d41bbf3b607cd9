"""The command line: `lightwell serve | demo | explain | synthesize | models | status`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lightwell import cli_models, files, tell
from lightwell.client import Stream
from lightwell.errors import InvalidArgumentError
from lightwell.parameters import method as method_of
from lightwell.parameters import target as target_of
from lightwell.results import Explanation, Synthesis
from lightwell.serving import missing
from lightwell.status import status as status_of
from lightwell.terminal import LOCAL, Address, Json, Model, bar, connected, say, sentences

app = typer.Typer(
    help="Explains what image models see.", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
app.add_typer(cli_models.app, name="models")


class Of(StrEnum):
    """Which reading of a class is meant."""

    SCORE = "score"
    PROBABILITY = "probability"
    LOG_PROBABILITY = "log_probability"


class Fit(StrEnum):
    """How an image is brought to the model's size."""

    CARD = "card"
    EXACT = "exact"


Method = Annotated[str, typer.Option("--method", help="The method, such as grad_cam or pgd.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A parameter of the method; may be repeated."),
]
Target = Annotated[
    str | None,
    typer.Option(help="A class by label or index, channel:LAYER:3, neuron:LAYER:3 contrast:3:5; else the top class."),
]
OfOption = Annotated[Of, typer.Option("--of", help="Which reading of a class is meant.")]
FitOption = Annotated[Fit, typer.Option("--fit", help="By the card's resize and crop, or used exactly as it is.")]
Seed = Annotated[int, typer.Option(min=0, help="Where all randomness starts.")]
Version = Annotated[str, typer.Option(help="The model's version; the newest if left out.")]


@app.command()
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The pictures to explain.")],
    method: Method = "grad_cam",
    parameter: Parameters = None,
    model: Model = "",
    version: Version = "",
    target: Target = None,
    of: OfOption = Of.SCORE,
    fit: FitOption = Fit.CARD,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="A directory for the overlays, or the one file.")] = Path(),
    as_json: Json = False,
    server: Address = LOCAL,
) -> None:
    """What the model saw: an overlay for each image."""
    with connected(server) as client:
        message = method_of("explain", method, parameter or ())
        places = files.per_image(images, method, out)
        answers = client.explain_all(
            images,
            message,
            model=model,
            version=version,
            seed=seed,
            target=target_of(target),
            of=of.value,
            fit=fit.value,
        )
        with bar(len(images) > 1) as progress:
            for image, place in zip(progress.track(images, description=method), places, strict=True):
                seen = _of_file(answers, image)
                drawn = place if seen.message.HasField("map") else None
                if drawn:
                    seen.save(drawn)
                say((tell.explanation if as_json else tell.explanation_line)(seen, str(image), drawn))


@app.command()
def synthesize(
    image: Annotated[Path | None, typer.Argument(help="The picture to attack, or to keep the content of.")] = None,
    method: Method = "style_transfer",
    parameter: Parameters = None,
    model: Model = "",
    version: Version = "",
    target: Target = None,
    of: OfOption = Of.SCORE,
    fit: FitOption = Fit.CARD,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="The file to write; <image>_<method>.png if left out.")] = None,
    previews: Annotated[int, typer.Option(min=0, max=1000, help="How many pictures of the way are written.")] = 0,
    previews_dir: Annotated[Path | None, typer.Option(help="Where they go; beside the file if left out.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Write the method's other pictures, too.")] = False,
    as_json: Json = False,
    server: Address = LOCAL,
) -> None:
    """What would change the model's mind, or what it dreams of: a picture."""
    with connected(server) as client:
        place = files.picture(out or Path(f"{image.stem}_{method}.png" if image else f"{method}.png"))
        folder = previews_dir or place.with_name(f"{place.stem}_previews")
        stream = client.synthesize(
            method_of("synthesize", method, parameter or ()),
            image=image,
            model=model,
            version=version,
            target=target_of(target),
            of=of.value,
            fit=fit.value,
            seed=seed,
            previews=previews,
        )
        way = _watched(stream, method, folder)
        made = stream.result()
        written = _written(made, place, pictures)
        source = str(image) if image else None
        say(tell.synthesis(made, source, written, way) if as_json else tell.synthesis_line(made, place))


@app.command()
def status(as_json: Json = False, server: Address = LOCAL) -> None:
    """Whether the server is there, and how its services and models are."""
    with sentences():
        told = status_of(server)
        if as_json:
            say(told)
        elif told["reachable"]:
            say(f"{server} is reachable and holds {len(told['models'])} models")
            for name, health in told["services"].items():
                say(f"  {name}  {health}")
            for name, part in told["models"].items():
                say(f"  model {name}  {part['health']}  version {', '.join(part['versions'])}")
        else:
            raise OSError(f"{server} does not answer: {told['reason']}")
    if not told["reachable"]:
        raise typer.Exit(1)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Serves a repository of models; all options are the server's own, see `lightwell serve --help`."""
    with sentences():
        if reason := missing():
            raise OSError(reason)
    os.execv(sys.executable, [sys.executable, "-m", "lightwell_server", *context.args])  # noqa: S606 - our own module


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Where the gallery goes.")] = Path("gallery")) -> None:
    """Serves the bundled model, asks all methods, writes a page to look at."""
    from lightwell.demo import run

    with sentences():
        run(out)


def _of_file(answers: Iterator[Explanation], image: Path) -> Explanation:
    """The next answer. What is wrong with an image is told with its name, for there may be many."""
    try:
        return next(answers)
    except InvalidArgumentError as error:
        if any(field.startswith("image") for field, _ in error.violations):
            raise ValueError(f"{image}: {error.message}") from None
        raise


def _watched(stream: Stream, method: str, folder: Path) -> list[Path]:
    """Follows a synthesis to its end and writes its previews."""
    written: list[Path] = []
    with bar() as progress:
        task = progress.add_task(method, total=None)
        for step in stream:
            objective = "" if step.objective is None else f"  objective {step.objective:.4g}"
            progress.update(task, completed=step.step, total=step.steps, description=method + objective)
            if step.image is not None:
                folder.mkdir(parents=True, exist_ok=True)
                written.append(folder / f"step_{step.step:05d}.png")
                step.image.save(written[-1])
    return written


def _written(made: Synthesis, place: Path, pictures: bool) -> list[Path]:
    """The files: the image first, then the method's other pictures beside it."""
    made.save(place)
    written = [place]
    for name, picture in made.pictures.items() if pictures else ():
        written.append(place.with_name(f"{place.stem}_{name}.png"))
        picture.save(written[-1])
    return written
