"""Around every call: errors become statuses with details, requests are counted and logged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from grpc_status import rpc_status

from lightwell_server import metrics
from lightwell_server.errors import (
    Code,
    Internal,
    InvalidArgument,
    LightwellError,
    NotApplicable,
    NotFound,
    Overloaded,
    Unavailable,
)

log = logging.getLogger(__name__)

DOMAIN = "lightwell"
Context = grpc.aio.ServicerContext[Any, Any]


class Boundary(grpc.aio.ServerInterceptor):
    """The outermost layer of Lightwell's own services. `calls` is how many of their calls are open."""

    def __init__(self) -> None:
        self.calls = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - gRPC's handlers are typed for its other server
        """Wraps a handler; health and reflection pass as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/lightwell."):
            return handler
        codecs: Any = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(_stream(self, handler.unary_stream), **codecs)
        return grpc.unary_unary_rpc_method_handler(_unary(self, handler.unary_unary), **codecs)


class _Watch:
    """Counts one call, and turns what it raises into a status."""

    def __init__(self, boundary: Boundary, request: Any, context: Context) -> None:  # noqa: ANN401
        self.boundary, self.request, self.context = boundary, request, context
        self.began, self.code = time.monotonic(), Code.OK

    async def __aenter__(self) -> None:
        self.boundary.calls += 1
        # A call is over when its last message has left, not when its handler returns.
        self.context.add_done_callback(self._left)  # type: ignore[arg-type]
        metrics.in_progress.inc()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        metrics.in_progress.dec()
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            left = self.context.time_remaining()
            self.code = Code.DEADLINE_EXCEEDED if left is not None and left <= 0 else Code.CANCELLED
        elif error is not None:
            told = (
                error
                if isinstance(error, LightwellError)
                else Internal("internal error; the server's log has the details")
            )
            if told is not error:
                log.error("a call failed", exc_info=error)
            self.code = told.code
        self._count()
        if error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit):
            await self.context.abort_with_status(rpc_status.to_status(status(told)))

    def _left(self, _: Any) -> None:  # noqa: ANN401
        self.boundary.calls -= 1

    def _count(self) -> None:
        method = self.request.WhichOneof("method") if "method" in self.request.DESCRIPTOR.oneofs_by_name else None
        # A name that no model has would be a label without bounds.
        model = getattr(self.request, "model", "") if self.code is not Code.NOT_FOUND else ""
        metrics.requests.labels(method or "", model, self.code.name).inc()
        metrics.request_seconds.labels(method or "", model).observe(time.monotonic() - self.began)


def _unary(
    boundary: Boundary, handle: Callable[[Any, Context], Awaitable[Any]]
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:  # noqa: ANN401
        async with _Watch(boundary, request, context):
            return await handle(request, context)

    return call


def _stream(
    boundary: Boundary, handle: Callable[[Any, Context], AsyncIterator[Any]]
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        async with _Watch(boundary, request, context):
            async for response in handle(request, context):
                yield response

    return call


def status(error: LightwellError) -> status_pb2.Status:
    """An error with its details."""
    found: list[Any] = [details.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidArgument) and error.violations:
        violations = [details.BadRequest.FieldViolation(field=f, description=d) for f, d in error.violations]
        found.append(details.BadRequest(field_violations=violations))
    if isinstance(error, Overloaded | Unavailable):
        retry = details.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_seconds * 1000))
        found.append(retry)
    if isinstance(error, NotFound):
        found.append(details.ResourceInfo(resource_type=error.resource_type, resource_name=error.resource_name))
    if isinstance(error, NotApplicable):
        violation = details.PreconditionFailure.Violation(
            type="METHOD", subject=error.subject, description=error.message
        )
        found.append(details.PreconditionFailure(violations=[violation]))
    packed = []
    for detail in found:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=packed)
