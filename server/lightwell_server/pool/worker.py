"""A worker process: it serves one device on a Unix socket, and ends when the gateway does."""

from __future__ import annotations

import os

# Read when an accelerator starts: without it its matrix products are not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import torch._dynamo  # noqa: F401 - optimizers import it when they are made; here it is done once for all workers
import uvloop
from grpc_status import rpc_status
from prometheus_client import ProcessCollector, generate_latest

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import explainer_pb2
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell_server.codec.statuses import status
from lightwell_server.engine.run import Run
from lightwell_server.errors import Internal, LightwellError
from lightwell_server.observability import logs, metrics
from lightwell_server.pool.client import CALLER, NUMBER, OPTIONS, SPANS, packed
from lightwell_server.pool.journal import CrashJournal
from lightwell_server.requests import rpcs
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.call import Call
from lightwell_server.runtime.device import Device
from lightwell_server.runtime.queries import Query, queries

log = logging.getLogger(__name__)

FAULT = 70
"""The exit status of a worker whose device has failed."""
Context = grpc.aio.ServicerContext[Any, Any]


class Explainer:
    """Runs requests whose images are pixels."""

    def __init__(self, device: Device) -> None:
        self._device = device

    async def Explain(self, request: explain.ExplainRequest, context: Context) -> explain.ExplainResponse:
        """One request, one response."""
        admitted = _admitted(context)
        async with _statuses(context, admitted), aclosing(self._device.run(request, admitted)) as answers:
            async for response in answers:
                if isinstance(response, explain.ExplainResponse):
                    return response
        raise AssertionError("a request ended without its result")

    async def ExplainStream(
        self, request: explain.ExplainStreamRequest, context: Context
    ) -> AsyncIterator[explain.ExplainStreamResponse]:
        """Progress, then one result."""
        admitted = _admitted(context)
        admitted.watched = True
        async with _statuses(context, admitted), aclosing(self._device.run(request.request, admitted)) as answers:
            async for response in answers:
                which = "result" if isinstance(response, explain.ExplainResponse) else "progress"
                yield explain.ExplainStreamResponse(**{which: response})  # type: ignore[arg-type]

    async def Synthesize(
        self, request: synthesize.SynthesizeRequest, context: Context
    ) -> AsyncIterator[synthesize.SynthesizeResponse]:
        """Progress, then one result."""
        admitted = _admitted(context)
        async with _statuses(context, admitted), aclosing(self._device.run(request, admitted)) as answers:
            async for response in answers:
                which = "result" if isinstance(response, synthesize.SynthesizeResult) else "progress"
                yield synthesize.SynthesizeResponse(**{which: response})  # type: ignore[arg-type]


class Admin:
    """The calls by which the gateway controls its worker."""

    def __init__(self, device: Device) -> None:
        self._device = device

    async def ListJobs(self, request: admin.ListJobsRequest, context: Context) -> admin.ListJobsResponse:
        """What each job has used. The gateway also uses this call to check that the worker responds."""
        used = self._device.attained().items()
        return admin.ListJobsResponse(jobs=[admin.Job(number=n, device_seconds=seconds) for n, seconds in used])

    async def LoadModel(self, request: admin.LoadModelRequest, context: Context) -> admin.LoadModelResponse:
        """Loads a version of the repository. The gateway limits how many load at a time, and for how long."""
        async with _statuses(context):
            return admin.LoadModelResponse(model=await self._device.load_untimed(request.model, request.version))

    async def UnloadModel(self, request: admin.UnloadModelRequest, context: Context) -> admin.UnloadModelResponse:
        """Unloads a version."""
        await self._device.unload(request.model, request.version)
        return admin.UnloadModelResponse()

    async def GetMetrics(self, request: admin.GetMetricsRequest, context: Context) -> admin.GetMetricsResponse:
        """The metrics of this process."""
        return admin.GetMetricsResponse(text=generate_latest(self._device.metrics.registry).decode())


def answered(device: Device, query: Query) -> Callable[..., Any]:
    """The function of a query."""

    async def single(request: Any, context: Context) -> Any:  # noqa: ANN401 - of any rpc
        admitted = _admitted(context)
        async with _statuses(context), aclosing(device.query(query.rpc, request, admitted)) as answers:
            return await anext(answers)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - of any rpc
        admitted = _admitted(context)
        async with _statuses(context), aclosing(device.query(query.rpc, request, admitted)) as answers:
            async for response in answers:
                yield response

    return stream if query.streams else single


class _statuses:
    """Turns exceptions into a status with details, and adds a request's spans as a trailer."""

    def __init__(self, context: Context, admitted: AdmittedRequest | None = None) -> None:
        self._context, self._admitted = context, admitted

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._admitted is not None:
            self._context.set_trailing_metadata(((SPANS, packed(self._admitted.call.spans)),))
        if isinstance(error, Exception):
            if not isinstance(error, LightwellError):
                log.error("a call failed", exc_info=error)
                error = Internal("internal error; the server's log has the details")
            await self._context.abort_with_status(rpc_status.to_status(status(error)))


def _admitted(context: Context) -> AdmittedRequest:
    """A request from the metadata of the gateway's call."""
    given = dict(context.invocation_metadata() or ())
    left = context.time_remaining()
    deadline = float("inf") if left is None else time.monotonic() + left
    caller = given.get(CALLER, b"")
    assert isinstance(caller, bytes)  # as for all headers with the suffix -bin
    call = Call(str(given.get("x-request-id", "")), "", caller.decode())
    return AdmittedRequest(call, int(given.get(NUMBER, 0)), deadline=deadline)


async def serve(launch: dict[str, Any]) -> None:
    """Serves until the process is ended."""
    journal = CrashJournal(Path(launch["record"]))

    def watch(jobs: Collection[Run]) -> None:
        journal.write(job.number for job in jobs)

    device = Device(launch["settings"], launch["device"], watch, failed=lambda: os._exit(FAULT))
    ProcessCollector(registry=device.metrics.registry)
    server = grpc.aio.server(options=OPTIONS)
    functions = {**rpcs.functions(Explainer(device)), **rpcs.functions(Admin(device))}
    functions |= {rpc: answered(device, query) for rpc, query in queries().items()}
    for service in explainer_pb2.DESCRIPTOR.services_by_name.values():
        rpcs.serve(server, service, functions)  # the gateway calls nothing else
    server.add_insecure_port(f"unix:{launch['socket']}")
    await server.start()
    await server.wait_for_termination()


def _end_with_gateway() -> None:
    gateway = multiprocessing.parent_process()
    assert gateway is not None
    gateway.join()
    os._exit(0)


def main(launch: dict[str, Any]) -> None:
    """Runs a worker with its launch arguments: the settings, its number, its device, its socket, and its journal's
    file."""
    os.setsid()  # a terminal's interrupt is for the gateway, which lets its workers finish
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a SIGINT for this process alone ends it, and is no crash
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # only the gateway writes to its standard output
    logs.start(launch["settings"].log_level, worker=launch["number"])
    metrics.without_created()
    threading.Thread(target=_end_with_gateway, name="gateway", daemon=True).start()
    uvloop.run(serve(launch))
