"""The options for the connection to a server, which all commands that call one share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lightwell.cli.option_groups import taking
from lightwell.cli.terminal import sentences
from lightwell.client import Client
from lightwell.parameters import Usage
from lightwell.transport.errors import UnavailableError


def _option(name: str, metavar: str | None, help_: str, **more: Any) -> Any:  # noqa: ANN401 - typer's own type is Any
    environment = f"LIGHTWELL_{name.upper().replace('-', '_')}"
    return typer.Option(
        f"--{name}", metavar=metavar, help=help_, envvar=environment, rich_help_panel="The server", **more
    )


@dataclass(frozen=True)
class Server:
    """One option for each field."""

    address: Annotated[str, _option("server", "HOST:PORT", "Who is asked.")] = "localhost:50051"
    tls: Annotated[bool, _option("tls", None, "Ask over TLS, trusting the system's authorities.")] = False
    ca: Annotated[Path | None, _option("ca", "FILE", "Ask over TLS, trusting the authorities in this file.")] = None
    cert: Annotated[Path | None, _option("cert", "FILE", "Your own certificate, if the server wants one.")] = None
    key: Annotated[Path | None, _option("key", "FILE", "The key of that certificate.")] = None
    token_file: Annotated[
        Path | None, _option("token-file", "FILE", "A file with your token; LIGHTWELL_TOKEN may hold the token itself.")
    ] = None
    timeout: Annotated[
        float | None, _option("timeout", "SECONDS", "How long a call may take; else as the server says.", min=0)
    ] = None

    def settings(self) -> dict[str, Any]:
        """The arguments of a client. Raises `Usage` for options that contradict each other, OSError for a file that
        cannot be read."""
        if (self.cert is None) != (self.key is None):
            raise Usage("--cert and --key go together")
        if self.cert is not None and not (self.tls or self.ca):
            raise Usage("--cert is shown over TLS only; give --tls or --ca, too")
        certificate = (self.cert, self.key) if self.cert else None
        return {
            "timeout": self.timeout,
            "tls": self.ca or self.tls,
            "certificate": certificate,
            "token": self._token(),
        }

    def _token(self) -> str | None:
        if self.token_file is None:
            # Not an option, because the list of processes would show it.
            return os.environ.get("LIGHTWELL_TOKEN")
        token = self.token_file.read_text("utf-8").strip()
        if not token:
            raise Usage(f"--token-file {self.token_file}: the file is empty")
        return token

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of that server. Errors end the command with one sentence."""
        with sentences(), Client(self.address, **self.settings()) as client:
            try:
                yield client
            except UnavailableError as error:
                raise OSError(f"{self.address} does not answer: {error.message}") from None


asking = taking("server", Server)
"""Adds the options of `Server` to a command, which gets them as its argument `server`."""
