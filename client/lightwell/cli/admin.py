"""`lightwell status | jobs | jobs stop | models load | models unload`: the commands of an operator."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer
from rich.console import RenderableType

from lightwell.cli import formatting_admin
from lightwell.cli.connection import Server, asking
from lightwell.cli.formatting import counted, plain
from lightwell.cli.options import model_names
from lightwell.cli.status import ready
from lightwell.cli.status import status as status_of
from lightwell.cli.terminal import Json, failed, live, say, sentences
from lightwell.parameters import Usage
from lightwell.transport.channel import Connection
from lightwell.transport.errors import DeadlineError, LightwellError, UnavailableError

PATIENCE = 5.0
"""The timeout of each call of `status` in seconds, by default."""

jobs = typer.Typer(help="Lists the requests that are admitted and not over, and stops them.")

Name = Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)]


@asking
def status(
    server: Server,
    follow: Annotated[bool, typer.Option("--live", help="Show it anew until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, with --live.")] = 1.0,
    as_json: Json = False,
    health: Annotated[
        bool, typer.Option("--health", help="Print nothing: exit code 0 if it takes requests, else 1.")
    ] = False,
) -> None:
    """Whether the server is there, and how its services, workers, queue and models are."""
    with sentences():
        settings = server.settings()
        connection = Connection(**{**settings, "timeout": settings["timeout"] or PATIENCE})
        with connection.open(server.address) as channel:
            if health:
                if follow or as_json:
                    raise Usage("--health prints nothing; leave --live and --json out")
                raise typer.Exit(_exit_code(channel, connection))
            if follow:
                live(lambda: _seen(server.address, channel, connection, as_json)[0], every, in_place=not as_json)
                return
            shown, reached = _seen(server.address, channel, connection, as_json)
        if not reached and not as_json:
            raise failed(str(shown))
        say(shown)
    if not reached:
        raise typer.Exit(1)


@jobs.callback(invoke_without_command=True)
@asking
def list_jobs(server: Server, context: typer.Context, as_json: Json = False) -> None:
    """Lists the requests that are admitted and not over, and stops them."""
    with sentences():
        if context.invoked_subcommand:
            _nothing_given(context)
            return
    with server.client() as client:
        found = client.jobs()
        if as_json:
            for job in found:
                say(plain(job))
        else:
            say(formatting_admin.jobs_table(found) if found else "no jobs")


@jobs.command()
@asking
def stop(server: Server, number: Annotated[int, typer.Argument(help="The job's number.")]) -> None:
    """Stops a job: its caller is told so, and it costs no further step."""
    with server.client() as client:
        client.stop_job(number)
        say(f"job {number} is stopped")


@asking
def load(
    server: Server,
    name: Name,
    version: Annotated[str, typer.Argument(help="Its version; the newest of the repository if left out.")] = "",
) -> None:
    """Loads a version beside those that answer; the server's repository has it already."""
    with server.client() as client:
        model = client.load_model(name, version)
        say(f"{model.summary.name} version {model.summary.version} answers: {counted(len(model.layers), 'layer')}")
        for note in model.notes:
            say(f"  {note}")


@asking
def unload(server: Server, name: Name, version: Annotated[str, typer.Argument(help="Its version.")]) -> None:
    """Lets go of a version, when its last request is over."""
    with server.client() as client:
        client.unload_model(name, version)
        say(f"{name} version {version} takes no further requests")


def _exit_code(channel: grpc.Channel, connection: Connection) -> int:
    """0 if the server takes requests."""
    try:
        return int(ready(channel, connection) != "serving")
    except LightwellError:
        return 1


def _seen(
    address: str, channel: grpc.Channel, connection: Connection, as_json: bool
) -> tuple[RenderableType | dict[str, Any], bool]:
    """What `status` shows, and whether the server was reached."""
    try:
        found = status_of(address, channel, connection)
    except (UnavailableError, DeadlineError) as error:
        unreached = {"server": address, "reachable": False, "reason": error.message}
        return unreached if as_json else f"{address} does not answer: {error.message}", False
    return formatting_admin.status(found) if as_json else formatting_admin.status_shown(found), True


def _nothing_given(context: typer.Context) -> None:
    """Raises `Usage` for options before the name of a subcommand, which would be ignored."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            command = f"{context.command_path} {context.invoked_subcommand}"
            raise Usage(f"write the options behind `{command}`")
