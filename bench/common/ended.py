"""That a server ends when it is told to."""

from __future__ import annotations

import math
import subprocess
import time

from bench.common.table import Goal
from lightwell.serving import Server

GRACE = 5.0
"""Seconds that accepted requests may still take."""
MORE = 2.0
"""Seconds that the end may take beyond that."""
PATIENCE = 60.0
"""Seconds after which a server is taken for one that does not end."""
SHORT_GRACE = ("--grace-seconds", str(GRACE))


def ended(proof: str, server: Server) -> Goal:
    """Tells a server with SHORT_GRACE to end; how long that took, for ever if it had ended before or does not end."""
    return Goal(f"{proof}: from SIGTERM to the end", _seconds(server), GRACE + MORE, False, ".1f", " s")


def _seconds(server: Server) -> float:
    if server.process.poll() is not None:
        return math.inf
    began = time.perf_counter()
    server.process.terminate()
    try:
        server.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return math.inf
    return time.perf_counter() - began


def lives(proof: str, server: Server) -> Goal:
    """That the gateway is the one that was started."""
    return Goal(f"{proof}: gateways that live", server.process.poll() is None, 1, True, "d")
