"""Connections that do nothing, and one that opens and resets its calls."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.callers.frames import PREFACE, Stranger, connected, message
from bench.common.table import Goal
from bench.strangers.shared import LOUD, Part, administrator, target
from lightwell import Client, LightwellError, Saliency
from lightwell.demo import SAMPLES
from lightwell.requests import explain_request
from lightwell.v1 import admin_pb2 as admin

EXPLAIN = "/lightwell.v1.ExplainerService/Explain"
LIMIT, OPENED = 200, 500
"""Connections that the server takes, and that are opened."""
AGAIN = 10.0
"""Seconds in which a new one is let in when those have been closed: a caller's pause before it tries again is one."""
RESETS = 200
"""Calls a second that are opened and reset."""


def connections(seconds: float) -> Part:
    """Connections of which half say nothing at all, and the others no more than hello."""
    with target("connections", "--max-connections", str(LIMIT)) as it:
        with it.asked(seconds), ExitStack() as stack:
            opened = []
            for number in range(OPENED):
                one = connected(it.server.address)
                opened.append(stack.enter_context(contextlib.closing(one)))
                with contextlib.suppress(OSError):  # of those that are refused
                    one.sendall(PREFACE[: len(PREFACE) // (1 + number % 2)])
            time.sleep(seconds / 4)
            held = _held(opened)
        again = _let_in(it.server.address)
        return it.found(
            Goal("connections: of strangers that were let in", held, LIMIT, False, "d"),
            Goal("connections: until a new caller was let in again", again, AGAIN, False, ".1f", " s"),
            notes=[f"{OPENED} were opened, the server takes {LIMIT}"],
        )


def resets(seconds: float) -> Part:
    """One connection opens calls and resets them at once, by a clock; one that is closed for that is opened anew."""
    image = (SAMPLES / "star.png").read_bytes()
    data = message(explain_request(image, Saliency()).SerializeToString())
    with target("resets") as it, ExitStack() as stack:
        with it.asked(seconds):
            sent, opened = 0, 1
            stranger = stack.enter_context(Stranger(it.server.address))
            began = time.monotonic()
            while (now := time.monotonic()) < began + seconds / 2:
                try:
                    stream = stranger.ask(EXPLAIN, LOUD)
                    stranger.send(stream, data, patience=0.0)
                    stranger.reset(stream)
                except OSError:
                    stranger.closed.set()
                sent += 1
                if stranger.closed.is_set():
                    stranger, opened = stack.enter_context(Stranger(it.server.address)), opened + 1
                time.sleep(max(0.0, began + sent / RESETS - now))
        rate = sent / (seconds / 2)
        with administrator(it.server.address) as ask:
            status = ask("GetStatus", admin.GetStatusRequest())
        left = status.waiting + status.running
        return it.found(
            Goal("resets: calls a second", rate, 0.9 * RESETS, True, ".0f"),
            Goal("resets: calls of it that are still in progress", left, 0, False, "d"),
            notes=[f"{sent:,} calls on {opened} connections"],
        )


def _held(opened: Sequence[socket.socket]) -> int:
    """How many connections the other side has not closed."""
    held = 0
    for one in opened:
        one.setblocking(False)
        try:
            while one.recv(4096):
                pass
        except BlockingIOError:
            held += 1
        except ConnectionError:
            pass
    return held


def _let_in(address: str) -> float:
    """Seconds until somebody new is answered; for ever if that takes too long."""
    began = time.monotonic()
    while time.monotonic() < began + 4 * AGAIN:
        with contextlib.suppress(LightwellError), Client(address, token=LOUD, retries=0, timeout=AGAIN) as client:
            client.models()
            return time.monotonic() - began
    return float("inf")
