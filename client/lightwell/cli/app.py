"""The command line: `lightwell serve | demo | explain | sheet | estimate | synthesize | models | status | jobs`."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from lightwell.cli import admin, explain, filters, models, sheet, synthesize
from lightwell.cli.terminal import Commands, failed, say, sentences
from lightwell.serving import missing

app = typer.Typer(
    cls=Commands,
    help="Explains what image models see.",
    epilog="Exit codes: 0 all is well, 1 the command failed, 2 it was called wrongly, 130 it was interrupted. What "
    "went wrong is told in one sentence on standard error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        say(f"lightwell {version('lightwell')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Explains what image models see."""


for command in (
    explain.explain,
    sheet.sheet,
    explain.estimate,
    synthesize.synthesize,
    admin.status,
):
    app.command()(command)
for command in (filters.filters, admin.load, admin.unload):
    models.app.command()(command)
app.add_typer(models.app, name="models")
app.add_typer(admin.jobs, name="jobs")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Serves a repository of models; all options are the server's own, see `lightwell serve --help`."""
    if reason := missing():
        raise failed(reason)
    os.execv(sys.executable, [sys.executable, "-m", "lightwell_server", *context.args])  # noqa: S606 - our own module


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Where the gallery goes.")] = Path("gallery")) -> None:
    """Serves the bundled model, asks all methods, writes a page to look at."""
    from lightwell.demo import run

    with sentences():
        run(out)
