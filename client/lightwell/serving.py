"""Runs a server in a process of its own for a limited time."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_READY = re.compile(r"lightwell: serving (\d+) models on port (\d+)")


@dataclass
class Server:
    """A running server; `exit_code` is set when it has stopped."""

    address: str
    models: int
    process: subprocess.Popen[str]
    exit_code: int | None = None


def missing() -> str | None:
    """The reason why no server can run here, or None."""
    absent = [name for name in ("lightwell_server", "torch") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} cannot be found; install lightwell[server]" if absent else None


def bundled() -> Path:
    """The repository with the bundled model. Raises OSError if no server is installed."""
    spec, reason = importlib.util.find_spec("lightwell_server"), missing()
    if reason or spec is None or spec.origin is None:
        raise OSError(reason)
    return Path(spec.origin).parent / "bundled"


@contextmanager
def served(
    repository: Path, *options: str, patience: float = 120.0, module: str = "lightwell_server"
) -> Iterator[Server]:
    """A server on a free local port, stopped by SIGTERM at the end; `module` is the module that runs. Raises OSError
    with its last line of output if it does not start within `patience` seconds."""
    command = [sys.executable, "-m", module, "--repository", str(repository), "--address", "127.0.0.1:0"]
    with tempfile.TemporaryFile("w+") as log:
        command += ["--metrics-port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603 - our own module
        try:
            server = _ready(process, log, patience)
            yield server
            process.terminate()
            server.exit_code = process.wait(patience)
        finally:
            process.kill()
            process.wait()  # does not wait for the end of its output, which a hanging worker may hold open
            if process.stdout is not None:
                process.stdout.close()


def _ready(process: subprocess.Popen[str], log: IO[str], patience: float) -> Server:
    """Reads output until the server reports that it is ready. The process is killed after `patience` seconds, which
    ends the output."""
    alarm = threading.Timer(patience, process.kill)
    alarm.start()
    try:
        for line in process.stdout or ():
            if found := _READY.match(line):
                return Server(f"127.0.0.1:{found[2]}", int(found[1]), process)
    finally:
        alarm.cancel()
    log.seek(0)
    words = log.read().strip().splitlines() or ["it said nothing"]
    raise OSError(f"the server did not start: {words[-1].strip()}")
