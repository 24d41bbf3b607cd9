"""Sheets and filters for the command line: a line to read, plain values for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from lightwell.cli.formatting import at, both, noted
from lightwell.filters import Filters
from lightwell.sheets.sheet import Sheet
from lightwell.transport.errors import LightwellError


def sheet(made: Sheet, file: Path) -> Iterator[dict[str, Any]]:
    """The result or the error of each cell of a sheet."""
    for row, answers in zip(made.rows, made.answers, strict=True):
        for column, answer in zip(made.columns, answers, strict=True):
            asked = {"image": row.name, "method": column.labels[0], "parameters": list(column.labels[1:])}
            if isinstance(answer, LightwellError):
                yield {**asked, "model": row.model, "error": answer.message, "reason": answer.reason, "file": str(file)}
            else:
                yield {**both(answer, row.name, file), "error": None}


def sheet_line(made: Sheet, file: Path) -> Text:
    """A line with the size of a sheet and its failed cells."""
    line = Text(f"{len(made.rows)} x {len(made.columns)} cells", "bold")
    answers = [answer for row in made.answers for answer in row]
    reasons = [answer.message for answer in answers if isinstance(answer, LightwellError)]
    if reasons:
        line.append(f"  {len(reasons)} without an answer", "red")
    return noted(at(line, file), dict.fromkeys(reasons))


def filters(found: Filters, file: Path) -> dict[str, Any]:
    """The weights of a layer without their values, and which of them the picture shows."""
    message = found.message
    return {
        "model": message.model,
        "version": message.version,
        "layer": message.layer,
        "shape": list(message.weights.shape),
        "filters": message.filters,
        "channels": message.channels,
        "file": str(file),
    }


def filters_line(found: Filters, file: Path) -> Text:
    """A line with the number of filters of a layer, and of those that are shown."""
    message, shape = found.message, found.message.weights.shape
    line = Text.assemble((found.layer, "bold"), f"  weights {' x '.join(map(str, shape))}")
    if (message.filters, message.channels) != (shape[0], shape[1]):
        line.append(f"  the first {message.filters} filters and {message.channels} channels are shown", "dim")
    return at(line, file)
