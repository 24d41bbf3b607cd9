"""Those who ask for health and do not read, or do not say for what."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench.callers.frames import Stranger, deaf, message
from bench.common.table import Goal
from bench.strangers.shared import Part, administrator, target
from lightwell.v1 import admin_pb2 as admin

WATCHES, HALVES = 32, 4
WATCH, CHECK = "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check"
LOADED = 5.0
"""Seconds in which a model is loaded."""


def prove(seconds: float) -> Part:
    """Loads a model beside them."""
    with target("health") as it, ExitStack() as stack:
        address = it.server.address
        with it.asked(seconds):
            for _ in range(WATCHES):
                stack.enter_context(deaf(address, WATCH))
            halves = stack.enter_context(Stranger(address))
            for _ in range(HALVES):
                halves.send(halves.ask(CHECK), message(b"", size=100)[:4])
            began = time.perf_counter()
            with administrator(address) as ask:
                ask("LoadModel", admin.LoadModelRequest(model="shapes"))
            took = time.perf_counter() - began
        for _ in range(HALVES):  # those of before have been ended meanwhile
            halves.send(halves.ask(CHECK), message(b"", size=100)[:4])
        return it.found(Goal("health: until LoadModel has answered", took, LOADED, False, ".1f", " s"))
