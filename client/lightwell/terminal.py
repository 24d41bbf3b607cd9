"""What all commands share: the server's address, errors as one sentence, bars where a person is looking."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lightwell.client import Client
from lightwell.errors import LightwellError, UnavailableError
from lightwell.parameters import Usage

Address = Annotated[
    str, typer.Option("--server", envvar="LIGHTWELL_SERVER", metavar="HOST:PORT", help="The server to ask.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Model = Annotated[str, typer.Option(help="The model's name; may be left out if there is only one.")]

LOCAL = "localhost:50051"


@contextmanager
def sentences() -> Iterator[None]:
    """Ends the command with one sentence on standard error: with 2 if it was called wrongly, with 1 if it failed."""
    try:
        yield
    except Usage as error:
        raise _failed(str(error), 2) from None
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise _failed(told, 1) from None
    except (LightwellError, ValueError) as error:
        raise _failed(str(error), 1) from None


@contextmanager
def connected(server: str) -> Iterator[Client]:
    """A client of that server, its errors told as sentences."""
    with sentences(), Client(server) as client:
        try:
            yield client
        except UnavailableError as error:
            raise OSError(f"{server} does not answer: {error.message}") from None


def say(what: Text | str | dict[str, Any]) -> None:
    """Prints one line for people, or for scripts."""
    if isinstance(what, dict):
        typer.echo(json.dumps(what, ensure_ascii=False, allow_nan=False))
    else:
        Console().print(what, markup=False, highlight=False, soft_wrap=True)


def bar(wanted: bool = True) -> Progress:
    """A progress bar on standard error, if that is a terminal. What is printed meanwhile stays on standard output."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    visible = wanted and console.is_terminal
    return Progress(*columns, console=console, disable=not visible, redirect_stdout=sys.stdout.isatty(), transient=True)


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(f"lightwell: {' '.join(message.split())}", err=True)
    return typer.Exit(code)
