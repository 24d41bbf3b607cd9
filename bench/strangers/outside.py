"""What surrounds a server: names in its repository, a collector of traces that is deaf, signals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.common.operator import send
from bench.common.proof import none
from bench.common.table import Goal
from bench.strangers.shared import Part, administrator, target
from lightwell.serving import bundled
from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import models_pb2 as models

NAMES = (
    b"superscript\xc2\xb2/1",
    b"net/\xc2\xb2",
    b"\xff\xfe/1",
    b"net/\xff",
    b"a name/1",
    b"at@/1",
    b"-/1",
    b"line\nend/1",
)
"""Of versions whose files are the good model's; some of which may be served: their letters can be printed."""
PIPE = "pipe/1"
EVERY = 0.2
"""Seconds between two signals."""


def names(seconds: float) -> Part:
    """Directories of strange names beside the good model, and a pipe in the place of a file."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(bundled(), root, dirs_exist_ok=True)
        for name in NAMES:
            shutil.copytree(os.fsencode(bundled() / "shapes" / "1"), os.fsencode(folder) + b"/" + name)
        (root / PIPE).mkdir(parents=True)
        os.mkfifo(root / PIPE / "model.pt")
        with target("names", repository=root) as it:
            with it.asked(seconds), administrator(it.server.address) as ask:
                known = ask("GetStatus", admin.GetStatusRequest()).models
            ready = [f"{each.name}@{each.version}" for each in known if each.state == models.MODEL_STATE_READY]
            told = [each for each in known if each.state == models.MODEL_STATE_REFUSED and each.reason]
            strangers = len(NAMES) + 1
            return it.found(
                Goal("names: strange ones that are listed", len(known) - 1, strangers, True, "d"),
                Goal("names: of the good model that answer", "shapes@1" in ready, 1, True, "d"),
                none("names: of the pipe that answer", "pipe@1" in ready),
                notes=[f"ready: {', '.join(ready)}", *(f"{each.name}@{each.version}: {each.reason}" for each in told)],
            )


def collector(seconds: float) -> Part:
    """A collector that takes connections and never says a word."""
    listening = socket.create_server(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with closing(listening), target("collector", "--otlp-endpoint", endpoint) as it:
        with it.asked(seconds):
            pass
        return it.found()


def signals(seconds: float) -> Part:
    """SIGHUP again and again, for the whole time."""
    with target("signals") as it:
        sent, over = [0], threading.Event()

        def hang_up() -> None:
            while not over.wait(EVERY):
                sent[0] += send(it.server.process.pid, signal.SIGHUP)

        thread = threading.Thread(target=hang_up)
        with it.asked(seconds):
            thread.start()
        over.set()
        thread.join()
        return it.found(Goal("signals: that were sent", sent[0], 1, True, "d"), notes=[f"{sent[0]} times SIGHUP"])
