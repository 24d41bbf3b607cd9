"""The gRPC health service (grpc.health.v1). Changes take effect at once, even if watchers do not read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

WATCHES, WATCHES_PER_PEER = 1024, 64
"""Watches that may be open, in total and of one address."""
LISTED = 100
"""Most services in a response of `List`, as its specification demands."""
Context = grpc.aio.ServicerContext[Any, Any]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it comes without types
    """The health of each service. A watch yields the newest status when it is read again, so a watcher that does not
    read blocks no other."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._watches: Counter[str] = Counter()
        self._stopping = False

    def set(self, service: str, serves: bool) -> None:
        """Sets whether a service serves."""
        status = SERVING if serves and not self._stopping else NOT_SERVING
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def stop(self) -> None:
        """Sets all services to not serving, for good."""
        self._stopping = True
        for service in self._statuses:
            self.set(service, serves=False)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The status of one service."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        """The status of all services."""
        if len(self._statuses) > LISTED:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are more than {LISTED} services")
        found = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=found)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of one service, now and at each change."""
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
