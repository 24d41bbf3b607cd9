"""Health as gRPC has it (grpc.health.v1). What it says is changed at once, whoever watches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

WATCHES, WATCHES_PER_PEER = 1024, 64
"""Watches that may be open, of all and of one address."""
LISTED = 100
"""Services that `List` names at most, as its page has it."""
Context = grpc.aio.ServicerContext[Any, Any]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it comes without types
    """What serves and what does not. A watch is told the newest that holds when it reads again: whoever does not read
    keeps nobody waiting."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._watches: Counter[str] = Counter()
        self._stopping = False

    def set(self, service: str, serves: bool) -> None:
        """Says from now on whether a service answers."""
        status = SERVING if serves and not self._stopping else NOT_SERVING
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def stop(self) -> None:
        """Nothing serves from now on, whatever else is said."""
        self._stopping = True
        for service in self._statuses:
            self.set(service, serves=False)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """How one service is."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        """How all services are."""
        if len(self._statuses) > LISTED:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are more than {LISTED} services")
        found = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=found)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """How one service is, now and whenever that changes."""
        peer = str(context.peer()).rpartition(":")[0]
        if self._watches.total() >= WATCHES or self._watches[peer] >= WATCHES_PER_PEER:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches are open; end one first")
        self._watches[peer] += 1
        try:
            told = None
            while True:
                changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await changed.wait()
        finally:
            self._watches[peer] -= 1
            if not self._watches[peer]:
                del self._watches[peer]
