"""What an operator does to a server: looks at its workers, and sends signals to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explainer_pb2_grpc

LOOKED = 0.1
"""Seconds between two looks."""


class Operator:
    """Asks a server how it is."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = explainer_pb2_grpc.AdminServiceStub(channel)

    async def workers(self) -> list[admin.WorkerStatus]:
        """Its workers."""
        return list((await self._stub.GetStatus(admin.GetStatusRequest())).workers)

    async def until(
        self, holds: Callable[[Sequence[admin.WorkerStatus]], bool], patience: float = 30.0
    ) -> list[admin.WorkerStatus]:
        """Waits until something holds of its workers. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while not holds(workers := await self.workers()):
                await asyncio.sleep(LOOKED)
        return workers


@asynccontextmanager
async def operator(address: str) -> AsyncIterator[Operator]:
    """An operator of a server."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield Operator(channel)


def all_ready(workers: Sequence[admin.WorkerStatus]) -> bool:
    """Whether every worker answers."""
    return all(worker.state == admin.WORKER_STATE_READY for worker in workers)


def send(pid: int, signal: int) -> bool:
    """Sends a signal to a process that may be gone; whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal)
        return True
    return False
