"""`lightwell synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightwell.cli import files, formatting
from lightwell.cli.connection import Server, asking
from lightwell.cli.options import (
    Fit,
    FitOption,
    Method,
    Model,
    Parameters,
    Readout,
    ReadoutOption,
    Seed,
    Target,
    Version,
)
from lightwell.cli.terminal import Json, bar, say
from lightwell.client import Stream
from lightwell.parameters import method as method_of
from lightwell.parameters import target as target_of
from lightwell.results import Synthesis


@asking
def synthesize(
    server: Server,
    image: Annotated[Path | None, typer.Argument(help="The picture to attack, or to keep the content of.")] = None,
    method: Method = "style_transfer",
    parameter: Parameters = None,
    model: Model = "",
    version: Version = "",
    target: Target = None,
    readout: ReadoutOption = Readout.SCORE,
    fit: FitOption = Fit.CARD,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="The file to write; <image>_<method>.png if left out.")] = None,
    previews: Annotated[int, typer.Option(min=0, max=1000, help="How many pictures of the way are written.")] = 0,
    previews_dir: Annotated[Path | None, typer.Option(help="Where they go; beside the file if left out.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Write the method's other pictures, too.")] = False,
    as_json: Json = False,
) -> None:
    """What would change the model's mind, or what it dreams of: a picture."""
    with server.client() as client:
        place = files.picture(out or Path(f"{image.stem}_{method}.png" if image else f"{method}.png"))
        folder = previews_dir or place.with_name(f"{place.stem}_previews")
        stream = client.synthesize(
            method_of("synthesize", method, parameter or ()),
            image=image,
            model=model,
            version=version,
            target=target_of(target),
            readout=readout.value,
            fit=fit.value,
            seed=seed,
            previews=previews,
        )
        way = _watched(stream, method, folder)
        made = stream.result()
        written = _written(made, place, pictures)
        source = str(image) if image else None
        say(formatting.synthesis(made, source, written, way) if as_json else formatting.synthesis_line(made, place))


def _watched(stream: Stream[Synthesis], method: str, folder: Path) -> list[Path]:
    """Waits for a synthesis and writes its previews."""
    written: list[Path] = []
    with bar() as progress:
        task = progress.add_task(method, total=None)
        for step in stream:
            objective = "" if step.objective is None else f"  objective {step.objective:.4g}"
            progress.update(task, completed=step.step, total=step.steps, description=method + objective)
            if step.image is not None:
                folder.mkdir(parents=True, exist_ok=True)
                written.append(folder / f"step_{step.step:05d}.png")
                files.write(written[-1], step.image.save)
    return written


def _written(made: Synthesis, place: Path, pictures: bool) -> list[Path]:
    """Writes the image, then the method's other pictures to the same folder; returns their paths."""
    files.write(place, made.save)
    written = [place]
    for name, picture in made.pictures.items() if pictures else ():
        written.append(place.with_name(f"{place.stem}_{name}.png"))
        files.write(written[-1], picture.save)
    return written
