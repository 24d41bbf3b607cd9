"""A model never ends while it is loaded: others answer meanwhile, and it is refused."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import grpc

from bench.callers.mixed import Load, questions, undisturbed
from bench.common.ended import SHORT_GRACE, ended, lives
from bench.common.operator import all_ready, operator
from bench.common.proof import Proof, none
from bench.common.table import Goal
from bench.fault.endless_worker import NAME
from bench.fault.kill import FLAGS
from lightwell import AsyncClient
from lightwell.serving import Server, bundled, served
from lightwell.transport.errors import from_rpc
from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explainer_pb2_grpc

LIMIT = 5.0
"""Seconds that a model may be loaded."""
LOOK = 3.0
"""Seconds that its refusal may be late."""


def prove(seconds: float) -> Proof:
    """Has such a model loaded again and again for so many seconds; the SDK repeats nothing."""
    with tempfile.TemporaryDirectory() as folder:
        repository = shutil.copytree(bundled(), Path(folder) / "repository")
        options = (*FLAGS, "--max-load-seconds", str(LIMIT), *SHORT_GRACE)
        with served(repository, *options, module="bench.fault.endless") as server:
            shutil.copytree(repository / "shapes", repository / NAME)
            proof = asyncio.run(_prove(server, seconds))
            proof.goals.append(ended("load", server))
            return proof


async def _prove(server: Server, seconds: float) -> Proof:
    taken, reasons = [], []
    async with (
        AsyncClient(server.address, retries=0) as client,
        operator(server.address) as watching,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        await watching.until(all_ready)
        named = [replace(asked, options={**asked.options, "model": "shapes"}) for asked in questions(seconds)]
        load = Load(client, await undisturbed(client, named))
        async with load.running():
            until = time.perf_counter() + seconds
            while not taken or time.perf_counter() < until:
                began, before = time.perf_counter(), load.answered
                reasons.append(await _loaded(channel))
                taken.append((time.perf_counter() - began, load.answered - before))
    goals = [
        Goal("load: until it was refused, at most", max(t for t, _ in taken), LIMIT + LOOK, False, ".1f", " s"),
        Goal("load: answers of others meanwhile, at least", min(n for _, n in taken), 1, True, "d"),
        none("load: ends other than its refusal", sum(reason != "MODEL_REFUSED" for reason in reasons)),
        none("load: requests lost", load.counts.lost),
        none("load: answers other than an undisturbed server's", len(load.wrong)),
        lives("load", server),
    ]
    return Proof("load", load.counts, goals, [f"the model was tried {len(taken)} times", *load.notes()])


async def _loaded(channel: grpc.aio.Channel) -> str:
    """Has the model loaded; the reason of its refusal."""
    try:
        await explainer_pb2_grpc.AdminServiceStub(channel).LoadModel(admin.LoadModelRequest(model=NAME))
    except grpc.aio.AioRpcError as error:
        return from_rpc(error, "").reason
    return "loaded"
