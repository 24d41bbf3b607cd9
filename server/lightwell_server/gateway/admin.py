"""The gRPC service for operators: workers, jobs, models, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explainer_pb2_grpc
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
"""Times that the metrics of all processes are put together at a time."""
Context = grpc.aio.ServicerContext[Any, Any]


class AdminService(explainer_pb2_grpc.AdminServiceServicer):
    """What an operator sees and does. `metrics()` gives the text of all metrics; it takes time: workers are asked."""

    def __init__(
        self,
        library: ModelRegistry,
        core: Backend,
        admission: Admission,
        curator: Reconciler,
        metrics: Callable[[], bytes],
    ) -> None:
        self._library, self._core, self._admission, self._curator = library, core, admission, curator
        self._metrics, self._began = metrics, time.monotonic()
        self._scrapes = Budget(SCRAPES, "the scrapes")
        self.stopping = False

    async def GetStatus(self, request: admin.GetStatusRequest, context: Context) -> admin.GetStatusResponse:
        """How the server, its workers and its models are."""
        cases = self._admission.cases
        running = sum(case.worker is not None for case in cases)
        aliases = self._library.aliases.items()
        return admin.GetStatusResponse(
            server_version=__version__,
            up_seconds=time.monotonic() - self._began,
            stopping=self.stopping,
            workers=self._core.statuses(),
            waiting=len(cases) - running,
            running=running,
            predicted_seconds=self._admission.seconds,
            models=self._library.listed().models,
            aliases={f"{name}@{alias}": version for name, found in aliases for alias, version in found.items()},
        )

    async def ListJobs(self, request: admin.ListJobsRequest, context: Context) -> admin.ListJobsResponse:
        """The requests that are in."""
        return admin.ListJobsResponse(jobs=[_job(case) for case in self._admission.cases])

    async def StopJob(self, request: admin.StopJobRequest, context: Context) -> admin.StopJobResponse:
        """Stops one."""
        found = [case for case in self._admission.cases if case.number == request.number]
        if not found:
            raise NotFound(
                f"there is no job {request.number}; it may be over",
                reason="JOB_NOT_FOUND",
                resource_type="job",
                resource_name=str(request.number),
            )
        (case,) = found
        case.stop()
        return admin.StopJobResponse()

    async def LoadModel(self, request: admin.LoadModelRequest, context: Context) -> admin.LoadModelResponse:
        """Loads a version."""
        if not request.model:
            raise InvalidArgument.at("model", "name the model to load")
        return admin.LoadModelResponse(model=await self._curator.load(request.model, request.version))

    async def UnloadModel(self, request: admin.UnloadModelRequest, context: Context) -> admin.UnloadModelResponse:
        """Lets go of a version."""
        for field in ("model", "version"):
            if not getattr(request, field):
                raise InvalidArgument.at(field, "name the model and the version to let go of")
        await self._curator.unload(request.model, request.version)
        return admin.UnloadModelResponse()

    async def GetMetrics(self, request: admin.GetMetricsRequest, context: Context) -> admin.GetMetricsResponse:
        """The metrics as Prometheus reads them."""
        async with self._scrapes.holding(current.get().caller, 1):
            text = await asyncio.to_thread(self._metrics)
        return admin.GetMetricsResponse(text=text.decode())


def _job(case: AdmittedRequest) -> admin.Job:
    return admin.Job(
        number=case.number,
        request_id=case.call.id,
        caller=case.call.caller,
        method=case.call.method,
        model=case.call.model,
        version=case.version,
        state=admin.JOB_STATE_WAITING if case.worker is None else admin.JOB_STATE_RUNNING,
        worker=case.worker,
        seconds=time.monotonic() - case.began,
        predicted_seconds=case.price.seconds,
        device_seconds=case.attained,
        step=case.step,
        steps=case.steps,
        attempts=case.attempts,
    )
