"""What all commands share: output lines, errors as one sentence, progress bars on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text
from typer.core import TyperGroup

from lightwell.parameters import Usage
from lightwell.transport.errors import LightwellError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

# Depending on its version, Typer includes click or depends on it.
_UsageError: Any = typer.BadParameter.__base__

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit codes: the command failed, was called wrongly, was interrupted."""


class Commands(TyperGroup):
    """Commands that also report errors in the command line as one sentence."""

    def make_context(self, *words: Any, **more: Any) -> Any:  # noqa: ANN401 - typer's context, of several libraries
        """Parses the command line."""
        with _usage():
            return super().make_context(*words, **more)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        """Runs the named command, which parses its own words."""
        with _usage():
            return super().invoke(ctx)


@contextmanager
def sentences() -> Iterator[None]:
    """Ends the command with one sentence on standard error if it fails."""
    try:
        yield
    except KeyboardInterrupt:
        raise failed("interrupted", INTERRUPTED) from None
    except Usage as error:
        raise failed(sentence(error), WRONG) from None
    except (LightwellError, OSError, ValueError) as error:
        raise failed(sentence(error), FAILED) from None


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        message = error.format_message()
        if not message or "\n" in message:  # the help, which `lightwell` alone prints
            raise
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        raise failed(message.rstrip(".") + where, WRONG) from None


def sentence(error: Exception) -> str:
    """An error's message in one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def failed(message: str, code: int = FAILED) -> typer.Exit:
    """Prints what failed, and returns the exception that ends the command."""
    remark(message)
    return typer.Exit(code)


def remark(message: str) -> None:
    """Prints one line on standard error, where it is not mistaken for a result."""
    Console(stderr=True).print(f"lightwell: {message}", markup=False, highlight=False, soft_wrap=True)


def say(what: RenderableType | dict[str, Any]) -> None:
    """Prints a line or a table to read, or a line of JSON for scripts."""
    if isinstance(what, dict):
        typer.echo(json.dumps(what, ensure_ascii=False, allow_nan=False))
    else:
        Console().print(what, markup=False, highlight=False, soft_wrap=True)


def live(look: Callable[[], RenderableType | dict[str, Any]], every: float, in_place: bool) -> None:
    """Prints what `look` returns every so many seconds until Ctrl-C: one below the other, or with `in_place` on a
    terminal, in the same place."""
    console = Console(markup=False, highlight=False)
    screen = Live(console=console, auto_refresh=False) if in_place and console.is_terminal else nullcontext()
    with suppress(KeyboardInterrupt), screen as place:
        while True:
            seen = look()
            if place is None or isinstance(seen, dict):
                say(seen)
            else:
                place.update(seen, refresh=True)
            time.sleep(every)


def table(head: Iterable[str], rows: Iterable[Iterable[str | Text]]) -> Table:
    """A table of text; long cells are wrapped."""
    columns = (Column(name, overflow="fold") for name in head)
    made = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def watched() -> bool:
    """Whether standard error is a terminal."""
    return Console(stderr=True).is_terminal


def bar(wanted: bool = True) -> Progress:
    """A progress bar on standard error, if that is a terminal. Other output appears above it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    visible = wanted and watched()
    return Progress(*columns, console=console, disable=not visible, redirect_stdout=sys.stdout.isatty(), transient=True)
