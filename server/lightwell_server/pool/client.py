"""Calls to a worker process: the public protos over a Unix socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import explainer_pb2_grpc
from lightwell.v1 import models_pb2 as models
from lightwell_server.catalog import Request
from lightwell_server.codec.statuses import error_of
from lightwell_server.errors import DeadlineExceeded, Unavailable
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.backend import Response
from lightwell_server.runtime.queries import Query
from lightwell_server.spans import Span

NUMBER = "x-lightwell-number"
"""The header with a request's number."""
CALLER = "x-lightwell-caller-bin"
"""The header with the caller's name in UTF-8: names of tokens and certificates may have any characters."""
SPANS = "x-lightwell-spans"
"""The trailer with the spans of a request in its worker."""
OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # pixels take more bytes than the files that callers may send
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
]


class Lost(Exception):
    """The worker cannot be reached, or has given up: it is ending, or has ended."""


class WorkerClient:
    """The calls to the worker that listens on a socket. All raise `Lost`, or the LightwellError that the worker
    reports."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", OPTIONS)
        self._explainer = explainer_pb2_grpc.ExplainerServiceStub(self._channel)
        self._admin = explainer_pb2_grpc.AdminServiceStub(self._channel)

    async def connected(self) -> None:
        """Waits until the worker listens."""
        await self._channel.channel_ready()

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def run(self, request: Request, admitted: AdmittedRequest) -> AsyncGenerator[Response, None]:
        """Runs a request; yields its progress and its result."""
        arguments = _arguments(admitted)
        with _translated():
            if isinstance(request, explain.ExplainRequest) and not admitted.watched:
                single = self._explainer.Explain(request, **arguments)
                response = await single
                admitted.call.spans += _unpacked(await single.trailing_metadata())
                yield response
                return
            call = self._stream(request, arguments)
            try:
                async for event in call:
                    which = event.WhichOneof("event")
                    if which == "result":  # the last event: the trailer with the spans follows
                        admitted.call.spans += _unpacked(await call.trailing_metadata())
                    yield getattr(event, which)
            finally:
                call.cancel()

    def _stream(self, request: Request, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - a call of either kind
        if isinstance(request, explain.ExplainRequest):
            return self._explainer.ExplainStream(explain.ExplainStreamRequest(request=request), **arguments)
        return self._explainer.Synthesize(request, **arguments)

    async def query(self, query: Query, request: Any, admitted: AdmittedRequest) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """Runs a query; yields its responses."""
        made = self._channel.unary_stream if query.streams else self._channel.unary_unary
        ask: Any = made(query.path, type(request).SerializeToString, query.response.FromString)
        call = ask(request, **_arguments(admitted))
        with _translated():
            if not query.streams:
                yield await call
                return
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version."""
        with _translated():
            return (await self._admin.LoadModel(admin.LoadModelRequest(model=name, version=version))).model

    async def unload(self, name: str, version: str) -> None:
        """Unloads a version."""
        with _translated():
            await self._admin.UnloadModel(admin.UnloadModelRequest(model=name, version=version))

    async def attained(self, patience: float) -> Mapping[int, float]:
        """Device seconds that each job has used, by number. Raises DeadlineExceeded after `patience` seconds."""
        with _translated():
            reported = await self._admin.ListJobs(admin.ListJobsRequest(), timeout=patience)
        return {job.number: job.device_seconds for job in reported.jobs}

    async def metrics(self, patience: float) -> str:
        """The worker's metrics as text."""
        with _translated():
            return (await self._admin.GetMetrics(admin.GetMetricsRequest(), timeout=patience)).text


def _arguments(admitted: AdmittedRequest) -> dict[str, Any]:
    """The arguments of a request's call: its timeout, and its metadata for the worker."""
    return {
        "timeout": max(0.0, admitted.deadline - time.monotonic()),
        "metadata": (
            ("x-request-id", admitted.call.id),
            (NUMBER, str(admitted.number)),
            (CALLER, admitted.call.caller.encode()),
        ),
    }


def packed(spans: Sequence[Span]) -> str:
    """Spans as the text of a header."""
    return json.dumps([[m.name, m.began, m.ended, dict(m.attributes)] for m in spans], separators=(",", ":"))


def _unpacked(trailer: Any) -> list[Span]:  # noqa: ANN401 - grpc's metadata
    return [Span(*span) for span in json.loads(dict(trailer or ()).get(SPANS, "[]"))]


@contextmanager
def _translated() -> Iterator[None]:
    task = asyncio.current_task()
    try:
        yield
    except asyncio.CancelledError:
        if task is not None and task.cancelling():
            raise
        # This task was not cancelled: the connection was closed during the call.
        raise Lost("the connection was closed") from None
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        reported = None if status is None else error_of(status)
        if reported is not None and not isinstance(reported, Unavailable):
            raise reported from None
        if reported is None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded("the deadline passed before the request was finished") from None
        raise Lost(error.details() or error.code().name) from None
