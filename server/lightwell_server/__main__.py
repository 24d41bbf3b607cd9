"""Starts the server, serves, and stops cleanly: `python -m lightwell_server --repository DIR`."""

from __future__ import annotations

import os

# Read when an accelerator starts: without it its matrix products are not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import asyncio
import logging
import signal
import sys
from typing import Any, NoReturn

import uvloop
from pydantic import ValidationError

from lightwell_server import reload
from lightwell_server.config import Settings, settings
from lightwell_server.descriptors import raise_limit
from lightwell_server.observability import logs, metrics
from lightwell_server.serving import Serving

log = logging.getLogger(__name__)


def main() -> None:
    """Runs until SIGTERM or SIGINT; a second signal stops at once. SIGHUP has files read anew."""
    try:
        chosen = _chosen()
    except (OSError, ValueError) as error:
        _give_up(str(error))
    if chosen.print_config:
        print(chosen.toml(), end="")
        return
    logs.start(chosen.log_level)
    metrics.without_created()
    raise_limit()
    uvloop.run(_serve(chosen))


async def _serve(settings: Settings) -> None:
    stop = _signals()
    try:
        server = Serving(settings)
    except (OSError, ValueError) as error:
        _give_up(str(error))
    await server.run(stop)
    logging.shutdown()
    os._exit(0)  # Python would wait for threads that still read a model or a picture, and nothing can stop those


def _chosen() -> Settings:
    """The settings of this process. Raises OSError and ValueError in a sentence."""
    try:
        return settings()
    except ValidationError as error:
        raise ValueError("; ".join(_wrong(e) for e in error.errors())) from None


def _reload() -> None:
    """Reads anew what may change while the server runs: certificates, tokens, aliases, and from which level on there
    are log lines. What is wrong changes nothing."""
    reload.reload()
    try:
        level = _chosen().log_level
    except (OSError, ValueError) as error:
        log.error("settings cannot be read again, the log level stays: %s", error)
    else:
        logging.getLogger().setLevel(level.upper())
        log.info("the log level is %s", level)


def _give_up(sentence: str) -> NoReturn:
    sys.exit(f"lightwell serve: {sentence}")


def _wrong(error: Any) -> str:  # noqa: ANN401 - pydantic's error details
    if error["loc"] and str(error.get("input")).startswith("tcp://"):
        name = f"LIGHTWELL_{error['loc'][0]}".upper()
        return (
            f"{name} is {error['input']}, which Kubernetes sets for a Service of that name; set"
            " enableServiceLinks: false in the Pod, or give the Service another name"
        )
    flag = f"--{'.'.join(map(str, error['loc'])).replace('_', '-')}: " if error["loc"] else ""
    return f"{flag}{error['msg'].removeprefix('Value error, ')}"


def _signals() -> asyncio.Event:
    """An event that the first signal to stop sets; from then on a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def first() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, lambda *_: os._exit(1))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)
    loop.add_signal_handler(signal.SIGHUP, _reload)
    return stop


if __name__ == "__main__":
    main()
