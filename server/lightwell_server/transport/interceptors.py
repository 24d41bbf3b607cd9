"""Around every call: callers are identified and checked, errors become statuses with details, and calls are counted and
logged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from lightwell.v1 import explainer_pb2
from lightwell_server.codec.statuses import status
from lightwell_server.errors import Code, DeadlineExceeded, Internal, LightwellError, Unavailable
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import Call, Right, current, named
from lightwell_server.transport import parts
from lightwell_server.transport.access import Access, identity
from lightwell_server.transport.exchange import READ, STALLED, Exchange, Gone, Stalled, cut_off
from lightwell_server.transport.shedding import LoadShedder

log = logging.getLogger(__name__)

PROBES, PROBE_SECONDS = 4, 2.0
"""Health calls that are read at a time, and seconds in which one must arrive."""
DEVICE, ADMIN = "/lightwell.v1.ExplainerService/", "/lightwell.v1.AdminService/"
"""The calls that a device serves, besides queries, and those of administrators."""
Context = grpc.aio.ServicerContext[Any, Any]
Observer = Callable[[Call], object]


class Boundary(grpc.aio.ServerInterceptor):
    """The outermost layer of all services. `calls` is the number of open calls of Lightwell's own services. `observers`
    are called with each call that is over. `queries` are the calls of other services that a device serves, and their
    rights. The `shedder` refuses requests for the device early that would be refused anyway. A request is read when
    there is memory for it, and an answer is kept only until it has been read."""

    def __init__(
        self,
        access: Access,
        observers: Sequence[Observer],
        exchange: Exchange,
        shedder: LoadShedder,
        max_seconds: float,
        queries: Mapping[str, Right],
    ) -> None:
        self.access, self.observers, self.exchange, self.shedder = access, observers, exchange, shedder
        self.metrics = exchange.metrics
        self.max_seconds = max_seconds
        self._queries = queries
        self.calls = 0
        self._handlers: dict[str, Any] = {}
        # Health calls have a small memory budget of their own, which requests cannot use up.
        self.probes = replace(
            exchange, received=Budget(PROBES * exchange.max_request, "the probes"), receive_seconds=PROBE_SECONDS
        )

    def left(self, _: object) -> None:
        """Counts the end of a call."""
        self.calls -= 1

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - gRPC's handlers are typed for its other server
        """Wraps a handler. Health calls need no token; reflection is for administrators."""
        handler = await continuation(handler_call_details)
        rpc = handler_call_details.method
        if handler is None:
            self.metrics.malformed.labels("unknown_rpc").inc()
            return None
        if rpc.startswith("/grpc.reflection."):
            return _guarded(self, handler)
        if rpc.startswith("/grpc.health."):
            return grpc.stream_stream_rpc_method_handler(_probe(self, parts.described(rpc, health_pb2), handler))
        if rpc not in self._handlers:
            right: Right = self._queries.get(rpc, "admin" if rpc.startswith(ADMIN) else "explain")
            entered = rpc.startswith(DEVICE) or rpc in self._queries
            self._handlers[rpc] = grpc.stream_stream_rpc_method_handler(
                _call(self, rpc, right, entered, parts.described(rpc, explainer_pb2), handler)
            )
        return self._handlers[rpc]


class _Watch:
    """Counts one call, and turns its exceptions into a status."""

    def __init__(self, boundary: Boundary, rpc: str, context: Context) -> None:
        self.boundary, self.context = boundary, context
        name, traceparent = named(context.invocation_metadata() or ())
        self.call = Call(name, rpc, traceparent=traceparent)

    def admitted(self, right: Right) -> str:
        """The caller's name. Raises if it does not have that right."""
        metadata = self.context.invocation_metadata() or ()
        self.call.caller = self.boundary.access.caller(metadata, right, identity(self.context))
        return self.call.caller

    async def __aenter__(self) -> _Watch:
        self.boundary.calls += 1
        # A call is over when gRPC's task ends, after its last message, and not when its handler returns. A callback of
        # the context would hold a reference to the call, and a call that is cut off ends only when it has no
        # references.
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(self.boundary.left)
        self.boundary.metrics.in_progress.inc()
        current.set(self.call)
        self.context.set_trailing_metadata(self._named)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.boundary.metrics.in_progress.dec()
        failure = self._failure(error)
        if failure is not None:
            self.call.code, self.call.reason = failure.code.name, failure.reason
        elif error is not None:
            left = self.context.time_remaining()
            self.call.code = (Code.DEADLINE_EXCEEDED if left is not None and left <= 0 else Code.CANCELLED).name
        self._tell()
        if failure is not None:
            failed = rpc_status.to_status(status(failure))
            await self.context.abort(failed.code, failed.details, (*failed.trailing_metadata, *self._named))
        if isinstance(error, Stalled):  # no status can be sent after an unread answer
            cut_off()
            raise asyncio.CancelledError
        return isinstance(error, Gone)

    def _failure(self, error: BaseException | None) -> LightwellError | None:
        """The error that the caller gets; None after success, or if the caller has disconnected."""
        if error is None or isinstance(error, Gone | Stalled | GeneratorExit):
            return None
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # by the caller, or by the end of the server
                return None
            log.error("a call was cancelled from within", extra={"fields": {"request_id": self.call.id}})
            return Unavailable("the call broke off inside the server; try again", reason="INTERRUPTED")
        return error if isinstance(error, LightwellError) else self._bug(error)

    @property
    def _named(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", self.call.id),)

    def _bug(self, error: BaseException) -> Internal:
        log.error("a call failed", exc_info=error, extra={"fields": {"request_id": self.call.id}})
        return Internal("internal error; the server's log has the details")

    def _tell(self) -> None:
        call = self.call
        call.ended = time.monotonic()
        method = call.method or call.rpc.rpartition("/")[2]
        self.boundary.metrics.requests.labels(method, call.model, call.code).inc()
        self.boundary.metrics.request_seconds.labels(method, call.model).observe(call.seconds)
        for observer in self.boundary.observers:
            observer(call)


Handler = Callable[[Any, Context], Awaitable[None]]


def _call(
    boundary: Boundary,
    rpc: str,
    right: Right,
    entered: bool,
    message: Descriptor,
    handler: Any,  # noqa: ANN401
) -> Handler:
    exchange = boundary.exchange

    async def call(requests: Any, context: Context) -> None:  # noqa: ANN401
        async with _Watch(boundary, rpc, context) as watch:
            caller = watch.admitted(right)
            with exchange.open(caller, handler.response_streaming):
                if entered:
                    await boundary.shedder.admit(caller, context.time_remaining())
                async with exchange.received.holding(caller, exchange.max_request) as room:
                    request, size = await exchange.receive(context, message, handler.request_deserializer)
                    room.resize(READ * size)
                    async with _limited(boundary.max_seconds + STALLED), watch.call.kept:
                        await _answered(
                            handler,
                            request,
                            context,
                            lambda answer: exchange.send(context, watch.call, answer, handler.response_serializer),
                        )

    return call


async def _answered(
    handler: Any,  # noqa: ANN401
    request: Any,  # noqa: ANN401
    context: Context,
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Sends the messages of a handler, one or several."""
    if not handler.response_streaming:
        await send(await handler.unary_unary(request, context))
        return
    async with aclosing(handler.unary_stream(request, context)) as responses:
        async for response in responses:
            await send(response)


@asynccontextmanager
async def _limited(seconds: float) -> AsyncIterator[None]:
    """Raises `DeadlineExceeded` in the block after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the call took longer than this server lets any") from None


def _probe(boundary: Boundary, message: Descriptor, handler: Any) -> Handler:  # noqa: ANN401
    probes = boundary.probes

    async def call(requests: Any, context: Context) -> None:  # noqa: ANN401
        async with _ended(context):
            with probes.open(identity(context), stream=False):
                async with probes.received.holding(identity(context), probes.max_request):
                    request, _ = await probes.receive(context, message, handler.request_deserializer)
                await _answered(
                    handler, request, context, lambda answer: context.write(handler.response_serializer(answer))
                )

    return call


@asynccontextmanager
async def _ended(context: Context) -> AsyncIterator[None]:
    """Turns exceptions into a status, without counting the call."""
    try:
        yield
    except Gone:
        return
    except LightwellError as error:
        await context.abort_with_status(rpc_status.to_status(status(error)))


def _guarded(boundary: Boundary, handler: Any) -> Any:  # noqa: ANN401
    """Reflection, for administrators."""

    async def call(requests: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        async with _ended(context):
            caller = boundary.access.caller(context.invocation_metadata() or (), "admin", identity(context))
            with boundary.probes.open(caller, stream=True):
                async with _limited(boundary.max_seconds), aclosing(handler.stream_stream(requests, context)) as told:
                    async for response in told:
                        yield response

    return grpc.stream_stream_rpc_method_handler(
        call,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
