"""Options that several commands share, and their completions in the shell."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from lightwell.cli.connection import Server
from lightwell.client import Client
from lightwell.parameters import method_names
from lightwell.transport.errors import LightwellError

PATIENCE = 0.5
"""The timeout in seconds for completing a model's name."""


class Readout(StrEnum):
    """How the score of a class is read."""

    SCORE = "score"
    PROBABILITY = "probability"
    LOG_PROBABILITY = "log_probability"


class Fit(StrEnum):
    """How an image is fitted to the model's size."""

    CARD = "card"
    EXACT = "exact"


def methods_of(context: typer.Context, incomplete: str) -> list[str]:
    """The methods of the command, or of both commands."""
    own = context.info_name
    kinds = [own] if own in ("explain", "synthesize") else ["explain", "synthesize"]
    return [name for kind in kinds for name in method_names(kind) if name.startswith(incomplete)]


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """The models of the server that the command line names so far; empty if it does not respond in time."""
    given = {name: context.params[name] for name in Server.__dataclass_fields__ if context.params.get(name) is not None}
    try:
        settings = {**Server(**given).settings(), "timeout": PATIENCE, "retries": 0}
        with Client(Server(**given).address, **settings) as client:
            names = dict.fromkeys(model.name for model in client.models())
    except (LightwellError, OSError, ValueError):
        return []  # completion cannot show errors
    return [name for name in names if name.startswith(incomplete)]


Method = Annotated[
    str, typer.Option("-m", "--method", help="The method, such as grad_cam or pgd.", autocompletion=methods_of)
]
Methods = Annotated[
    list[str] | None,
    typer.Option("-m", "--method", help="A method; may be repeated. Else grad_cam.", autocompletion=methods_of),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A parameter of the method; may be repeated."),
]
Model = Annotated[
    str,
    typer.Option("--model", help="The model's name; may be left out if there is only one.", autocompletion=model_names),
]
Version = Annotated[str, typer.Option("--version", help="The model's version; the newest if left out.")]
Target = Annotated[
    str | None,
    typer.Option(
        help="A class by label or index, channel:LAYER:3, neuron:LAYER:3, contrast:3:5, element:OUTPUT:3,7; else the "
        "top class."
    ),
]
ReadoutOption = Annotated[Readout, typer.Option("--readout", help="Which reading of a class is meant.")]
FitOption = Annotated[Fit, typer.Option("--fit", help="By the card's resize and crop, or used exactly as it is.")]
Seed = Annotated[int, typer.Option(min=0, help="Where all randomness starts.")]
