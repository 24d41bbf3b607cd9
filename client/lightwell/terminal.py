"""What all commands share: lines, errors as one sentence, bars where a person is looking."""

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
from typer.core import TyperGroup

from lightwell.errors import LightwellError
from lightwell.parameters import Usage

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

# Typer brings a library of commands along, or needs one, depending on its version.
_UsageError: Any = typer.BadParameter.__base__

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit codes: the command failed, was called wrongly, was interrupted."""


class Commands(TyperGroup):
    """Commands that tell what is wrong with their words in one sentence, too."""

    def make_context(self, *words: Any, **more: Any) -> Any:  # noqa: ANN401 - typer's context, of several libraries
        """Reads the words of the command line."""
        with _usage():
            return super().make_context(*words, **more)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        """Runs the command that was named, which reads its own words."""
        with _usage():
            return super().invoke(ctx)


@contextmanager
def sentences() -> Iterator[None]:
    """Ends the command with one sentence on standard error where it fails."""
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
        told = error.format_message()
        if not told or "\n" in told:  # the help, which `lightwell` alone is answered with
            raise
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        raise failed(told.rstrip(".") + where, WRONG) from None


def sentence(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def failed(message: str, code: int = FAILED) -> typer.Exit:
    """Says what failed, and gives the exception that ends the command."""
    remark(message)
    return typer.Exit(code)


def remark(message: str) -> None:
    """Prints one line on standard error: neither people nor scripts take it for a result."""
    Console(stderr=True).print(f"lightwell: {message}", markup=False, highlight=False, soft_wrap=True)


def say(what: Text | str | dict[str, Any]) -> None:
    """Prints one line for people, or for scripts."""
    if isinstance(what, dict):
        typer.echo(json.dumps(what, ensure_ascii=False, allow_nan=False))
    else:
        Console().print(what, markup=False, highlight=False, soft_wrap=True)


def watched() -> bool:
    """Whether a person looks at standard error."""
    return Console(stderr=True).is_terminal


def bar(wanted: bool = True) -> Progress:
    """A progress bar on standard error, if that is a terminal. What is printed meanwhile stays above it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    visible = wanted and watched()
    return Progress(*columns, console=console, disable=not visible, redirect_stdout=sys.stdout.isatty(), transient=True)
