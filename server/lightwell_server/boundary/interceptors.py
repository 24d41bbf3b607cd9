"""Around every call: who calls, and whether they may; errors become statuses with details; calls are counted and
told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_status import rpc_status

from lightwell_server import metrics
from lightwell_server.boundary.access import Access, Right, identity
from lightwell_server.boundary.statuses import status
from lightwell_server.call import Call, current, named
from lightwell_server.errors import Code, Internal, InvalidArgument, LightwellError, Overloaded

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Observer = Callable[[Call], object]


class Boundary(grpc.aio.ServerInterceptor):
    """The outermost layer of Lightwell's own services. `calls` is how many of their calls are open; `observers` are
    told of each call that is over; a caller may have `max_streams` streams open, and an answer `max_bytes`."""

    def __init__(self, access: Access, observers: Sequence[Observer], max_streams: int, max_bytes: int) -> None:
        self.access, self.observers = access, observers
        self.max_streams, self.max_bytes = max_streams, max_bytes
        self.calls = 0
        self.streams: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - gRPC's handlers are typed for its other server
        """Wraps a handler. Health alone passes as it is: who asks it has no token; reflection is for administrators."""
        handler = await continuation(handler_call_details)
        rpc = handler_call_details.method
        if handler is None:
            metrics.malformed.labels("unknown_rpc").inc()
            return None
        if rpc.startswith("/grpc.health."):
            return handler
        if rpc.startswith("/grpc.reflection."):
            return _guarded(self.access, handler)
        right: Right = "admin" if rpc.startswith("/lightwell.v1.AdminService/") else "explain"
        try:
            self.access.caller(handler_call_details.invocation_metadata or (), right, "")
        except LightwellError as error:  # before the request is read: strangers get no memory
            return grpc.stream_stream_rpc_method_handler(_refusing(self, rpc, error))
        codecs: Any = {
            "request_deserializer": _counted(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(_stream(self, rpc, right, handler.unary_stream), **codecs)
        return grpc.unary_unary_rpc_method_handler(_unary(self, rpc, right, handler.unary_unary), **codecs)

    def sendable(self, response: Any) -> Any:  # noqa: ANN401 - a message
        """An answer that is not too large. gRPC would tell of the others without details. Raises InvalidArgument."""
        size = response.ByteSize()
        if size > self.max_bytes:
            raise InvalidArgument(
                f"the answer would have {size / 2**20:.1f} MiB and may have {self.max_bytes / 2**20:.1f}; ask for fewer"
                " channels, for FLOAT16, or of a smaller image",
                reason="ANSWER_TOO_LARGE",
            )
        return response

    def stream(self, caller: str) -> AbstractContextManager[None]:
        """Holds one of a caller's streams. Raises `Overloaded` if there are too many."""
        if self.streams[caller] >= self.max_streams:
            raise Overloaded(
                f"{caller} has {self.max_streams} streams open already; wait for one to end", reason="TOO_MANY_STREAMS"
            )
        return _Held(self.streams, caller)


@dataclass
class _Held(AbstractContextManager[None]):
    """A stream that counts for as long as it is open."""

    streams: Counter[str]
    caller: str

    def __enter__(self) -> None:
        self.streams[self.caller] += 1

    def __exit__(self, *_: object) -> None:
        self.streams[self.caller] -= 1
        if not self.streams[self.caller]:
            del self.streams[self.caller]


class _Watch:
    """Counts one call, and turns what it raises into a status."""

    def __init__(self, boundary: Boundary, rpc: str, context: Context) -> None:
        self.boundary, self.context = boundary, context
        name, traceparent = named(context.invocation_metadata() or ())
        self.call = Call(name, rpc, traceparent=traceparent)

    def admitted(self, right: Right) -> str:
        """The caller's name, if they have that right."""
        metadata = self.context.invocation_metadata() or ()
        self.call.caller = self.boundary.access.caller(metadata, right, identity(self.context))
        return self.call.caller

    async def __aenter__(self) -> _Watch:
        self.boundary.calls += 1
        # A call is over when its last message has left, not when its handler returns.
        self.context.add_done_callback(self._left)  # type: ignore[arg-type]
        metrics.in_progress.inc()
        current.set(self.call)
        self.context.set_trailing_metadata(self._named)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        metrics.in_progress.dec()
        gone = isinstance(error, asyncio.CancelledError | GeneratorExit)
        told: LightwellError | None = None
        if gone:
            left = self.context.time_remaining()
            self.call.code = (Code.DEADLINE_EXCEEDED if left is not None and left <= 0 else Code.CANCELLED).name
        elif error is not None:
            told = error if isinstance(error, LightwellError) else self._bug(error)
            self.call.code, self.call.reason = told.code.name, told.reason
        self._tell()
        if told is not None:
            failed = rpc_status.to_status(status(told))
            await self.context.abort(failed.code, failed.details, (*failed.trailing_metadata, *self._named))

    @property
    def _named(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", self.call.id),)

    def _bug(self, error: BaseException) -> Internal:
        log.error("a call failed", exc_info=error, extra={"fields": {"request_id": self.call.id}})
        return Internal("internal error; the server's log has the details")

    def _left(self, _: Any) -> None:  # noqa: ANN401
        self.boundary.calls -= 1

    def _tell(self) -> None:
        call = self.call
        call.ended = time.monotonic()
        method = call.method or call.rpc.rpartition("/")[2]
        metrics.requests.labels(method, call.model, call.code).inc()
        metrics.request_seconds.labels(method, call.model).observe(call.seconds)
        for observer in self.boundary.observers:
            observer(call)


def _unary(
    boundary: Boundary, rpc: str, right: Right, handle: Callable[[Any, Context], Awaitable[Any]]
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:  # noqa: ANN401
        async with _Watch(boundary, rpc, context) as watch:
            watch.admitted(right)
            return boundary.sendable(await handle(request, context))

    return call


def _stream(
    boundary: Boundary, rpc: str, right: Right, handle: Callable[[Any, Context], AsyncGenerator[Any, None]]
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        async with _Watch(boundary, rpc, context) as watch:
            with boundary.stream(watch.admitted(right)):
                async with aclosing(handle(request, context)) as responses:
                    async for response in responses:
                        yield boundary.sendable(response)

    return call


def _refusing(boundary: Boundary, rpc: str, error: LightwellError) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(requests: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        async with _Watch(boundary, rpc, context):
            raise error
            yield

    return call


def _guarded(access: Access, handler: Any) -> Any:  # noqa: ANN401
    """Reflection, for administrators."""

    async def call(requests: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        try:
            access.caller(context.invocation_metadata() or (), "admin", "")
        except LightwellError as error:
            await context.abort_with_status(rpc_status.to_status(status(error)))
        async for response in handler.stream_stream(requests, context):
            yield response

    return grpc.stream_stream_rpc_method_handler(
        call,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _counted(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Counts the requests that are no messages; gRPC itself tells their callers."""

    def counted(data: bytes) -> Any:  # noqa: ANN401
        try:
            return read(data)
        except Exception:
            metrics.malformed.labels("no_message").inc()
            raise

    return counted
