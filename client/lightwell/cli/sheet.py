"""`lightwell sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightwell.cli import files, formatting_sheet
from lightwell.cli.connection import Server, asking
from lightwell.cli.options import Fit, FitOption, Readout, ReadoutOption, Seed, Version, methods_of, model_names
from lightwell.cli.terminal import Json, failed, say
from lightwell.parameters import Usage, command_of
from lightwell.parameters import method as method_of
from lightwell.parameters import target as target_of
from lightwell.transport.errors import LightwellError


@asking
def sheet(
    server: Server,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Pictures, folders of them, patterns like 'photos/**/*.jpg'.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option("-m", "--method", help="A column; may be repeated. Else grad_cam.", autocompletion=methods_of),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A row for each image and model, as for explain; may be repeated.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Rows for that many classes, those of the highest scores.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Rows for that model; may be repeated.", autocompletion=model_names)
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A,B,C", help="A column for each value, of methods with that parameter; repeatable."),
    ] = None,
    version: Version = "",
    readout: ReadoutOption = Readout.SCORE,
    fit: FitOption = Fit.CARD,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="The file: a picture, or a page if it ends in .html.")] = Path("sheet.png"),
    as_json: Json = False,
) -> None:
    """Many answers side by side: images, models and targets in rows, methods and their parameters in columns. What
    fails is told in its place."""
    with server.client() as client:
        if top and target:
            raise Usage("--top chooses the targets itself; leave --target out")
        place = out if out.suffix.lower() == ".html" else files.picture(out)
        made = client.sheet(
            files.found(images),
            [method_of(command_of(name), name) for name in method or ["grad_cam"]],
            targets=top or ([target_of(text) for text in target] if target else [None]),
            models=model or "",
            sweep=dict(map(_values, sweep or [])),
            progress=True,
            version=version,
            readout=readout.value,
            fit=fit.value,
            seed=seed,
        )
        errors = [answer for row in made.answers for answer in row if isinstance(answer, LightwellError)]
        if len(errors) == len(made.rows) * len(made.columns):
            raise failed(errors[0].message)
        files.write(place, made.save)
        for summary in formatting_sheet.sheet(made, out) if as_json else [formatting_sheet.sheet_line(made, out)]:
            say(summary)


def _values(word: str) -> tuple[str, list[str]]:
    """A swept parameter with its values."""
    name, equals, text = word.partition("=")
    if not equals or not text:
        raise Usage(f"--sweep {word}: write NAME=A,B,C")
    # A file may have commas in its name.
    return name, [text] if Path(text).is_file() else text.split(",")
