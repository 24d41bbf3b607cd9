"""The command line: `lightwell serve | demo | explain | estimate | synthesize | models | status`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lightwell import cli_explain, cli_models, cli_synthesize, tell
from lightwell.asking import Server, asking
from lightwell.channel import Connection
from lightwell.serving import missing
from lightwell.status import status as status_of
from lightwell.terminal import Commands, Json, failed, say, sentences

PATIENCE = 5.0
"""Seconds that `status` gives each call, if no others are named."""

app = typer.Typer(
    cls=Commands,
    help="Explains what image models see.",
    epilog="Exit codes: 0 all is well, 1 the command failed, 2 it was called wrongly, 130 it was interrupted. What "
    "went wrong is told in one sentence on standard error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (cli_explain.explain, cli_explain.estimate, cli_synthesize.synthesize):
    app.command()(command)
app.add_typer(cli_models.app, name="models")


@app.command()
@asking
def status(server: Server, as_json: Json = False) -> None:
    """Whether the server is there, and how its services and models are."""
    with sentences():
        settings = server.settings()
        told = status_of(server.address, Connection(**{**settings, "timeout": settings["timeout"] or PATIENCE}))
        if as_json:
            say(told)
        elif not told["reachable"]:
            raise OSError(f"{server.address} does not answer: {told['reason']}")
        else:
            _shown(told)
    if not told["reachable"]:
        raise typer.Exit(1)


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


def _shown(told: dict[str, Any]) -> None:
    models = told["models"]
    known = (
        f"holds {tell.counted(len(models), 'model')}"
        if models is not None
        else f"does not tell its models: {told['reason']}"
    )
    say(f"{told['server']} is reachable and {known}")
    for name, health in told["services"].items():
        say(f"  {name}  {health}")
    for name, part in (models or {}).items():
        say(f"  model {name}  {part['health']}  version {', '.join(part['versions'])}")
