"""The gRPC service for operators: workers, jobs, models, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from lightwell.v1 import admin_pb2 as admin
from lightwell_server import __version__
from lightwell_server.errors import InvalidArgument, NotFound
from lightwell_server.gateway.admission import Admission
from lightwell_server.gateway.reconciler import Reconciler
from lightwell_server.gateway.registry import ModelRegistry
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.backend import Backend
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import current

SCRAPES = 2
"""Concurrent collections of the metrics of all processes."""
Context = grpc.aio.ServicerContext[Any, Any]


class AdminService:
    """The operator's calls. `metrics()` returns the text of all metrics; it blocks, because it calls the workers."""

    def __init__(
        self,
        registry: ModelRegistry,
        backend: Backend,
        admission: Admission,
        reconciler: Reconciler,
        metrics: Callable[[], bytes],
    ) -> None:
        self._registry, self._backend, self._admission, self._reconciler = registry, backend, admission, reconciler
        self._metrics, self._began = metrics, time.monotonic()
        self._scrapes = Budget(SCRAPES, "the scrapes")
        self.stopping = False

    async def GetStatus(self, request: admin.GetStatusRequest, context: Context) -> admin.GetStatusResponse:
        """The status of the server, its workers and its models."""
        requests = self._admission.requests
        running = sum(admitted.worker is not None for admitted in requests)
        aliases = self._registry.aliases.items()
        return admin.GetStatusResponse(
            server_version=__version__,
            up_seconds=time.monotonic() - self._began,
            stopping=self.stopping,
            workers=self._backend.statuses(),
            waiting=len(requests) - running,
            running=running,
            predicted_seconds=self._admission.seconds,
            models=self._registry.listed().models,
            aliases={f"{name}@{alias}": version for name, found in aliases for alias, version in found.items()},
        )

    async def ListJobs(self, request: admin.ListJobsRequest, context: Context) -> admin.ListJobsResponse:
        """The requests in progress."""
        return admin.ListJobsResponse(jobs=[_job(admitted) for admitted in self._admission.requests])

    async def StopJob(self, request: admin.StopJobRequest, context: Context) -> admin.StopJobResponse:
        """Stops a request."""
        found = [admitted for admitted in self._admission.requests if admitted.number == request.number]
        if not found:
            raise NotFound(
                f"there is no job {request.number}; it may be over",
                reason="JOB_NOT_FOUND",
                resource_type="job",
                resource_name=str(request.number),
            )
        (admitted,) = found
        admitted.stop()
        return admin.StopJobResponse()

    async def LoadModel(self, request: admin.LoadModelRequest, context: Context) -> admin.LoadModelResponse:
        """Loads a version."""
        if not request.model:
            raise InvalidArgument.at("model", "name the model to load")
        return admin.LoadModelResponse(model=await self._reconciler.load(request.model, request.version))

    async def UnloadModel(self, request: admin.UnloadModelRequest, context: Context) -> admin.UnloadModelResponse:
        """Unloads a version."""
        for field in ("model", "version"):
            if not getattr(request, field):
                raise InvalidArgument.at(field, "name the model and the version to let go of")
        await self._reconciler.unload(request.model, request.version)
        return admin.UnloadModelResponse()

    async def GetMetrics(self, request: admin.GetMetricsRequest, context: Context) -> admin.GetMetricsResponse:
        """The metrics in Prometheus' text format."""
        async with self._scrapes.holding(current.get().caller, 1):
            text = await asyncio.to_thread(self._metrics)
        return admin.GetMetricsResponse(text=text.decode())


def _job(admitted: AdmittedRequest) -> admin.Job:
    return admin.Job(
        number=admitted.number,
        request_id=admitted.call.id,
        caller=admitted.call.caller,
        method=admitted.call.method,
        model=admitted.call.model,
        version=admitted.version,
        state=admin.JOB_STATE_WAITING if admitted.worker is None else admin.JOB_STATE_RUNNING,
        worker=admitted.worker,
        seconds=time.monotonic() - admitted.began,
        predicted_seconds=admitted.price.seconds,
        device_seconds=admitted.attained,
        step=admitted.step,
        steps=admitted.steps,
        attempts=admitted.attempts,
    )
