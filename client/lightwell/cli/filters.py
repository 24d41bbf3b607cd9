"""`lightwell models filters`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightwell.cli import files, formatting_sheet
from lightwell.cli.connection import Server, asking
from lightwell.cli.options import model_names
from lightwell.cli.terminal import Json, say


@asking
def filters(
    server: Server,
    name: Annotated[
        str, typer.Argument(help="The model's name; may be left out if there is only one.", autocompletion=model_names)
    ] = "",
    version: Annotated[str, typer.Option(help="Its version; the newest if left out.")] = "",
    layer: Annotated[str, typer.Option(help="A convolution or a linear layer; else the first convolution.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="The picture to write; <model>_<layer>_filters.png if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draws the weights of a layer: each filter from its least to its largest value."""
    with server.client() as client:
        place = files.picture(out) if out else None
        found = client.filters(layer, name, version, picture=True)
        place = place or Path(f"{found.message.model}_{found.layer}_filters.png")
        files.write(place, found.save)
        say(formatting_sheet.filters(found, place) if as_json else formatting_sheet.filters_line(found, place))
