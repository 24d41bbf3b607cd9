"""A request's stages in the gateway: admit, decode, run, encode. Independent of the transport: the caller of this
module sets the `current` call, and reads the responses."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeVar

from google.protobuf.message import Message

from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell_server.catalog import Request, method_of
from lightwell_server.errors import Aborted, DeadlineExceeded, InvalidArgument, NotApplicable
from lightwell_server.gateway.admission import Admission
from lightwell_server.gateway.codec_pool import CodecPool
from lightwell_server.gateway.images import RequestImages, read_headers
from lightwell_server.gateway.registry import ModelRegistry, ModelVersion, used
from lightwell_server.requests.admitted import AdmittedRequest, Price
from lightwell_server.requests.backend import Backend, Response
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import WRITTEN, current
from lightwell_server.requests.models import check_role, roles
from lightwell_server.runtime.queries import Query

T = TypeVar("T")
QUERIES = 16
"""Queries that devices run at a time."""


class Pipeline:
    """Runs requests and queries. The `codec` decodes and draws images. `answers` is the memory budget of answers in
    bytes. A request may take `max_seconds`, its images `max_pixels`."""

    def __init__(
        self,
        registry: ModelRegistry,
        backend: Backend,
        admission: Admission,
        codec: CodecPool,
        answers: Budget,
        max_seconds: float,
        max_pixels: int,
    ) -> None:
        self._registry, self._backend, self._admission = registry, backend, admission
        self._codec, self._answers, self._queries = codec, answers, Budget(QUERIES, "the queries")
        self._max_seconds, self._max_pixels = max_seconds, max_pixels

    async def run(self, request: Request, left: float | None, watched: bool = False) -> AsyncGenerator[Response, None]:
        """A request's progress, if it is `watched`, and its result. Its timeout is `left` seconds, at most the server's
        limit (None: the limit). Raises LightwellError."""
        call, entry, deadline = current.get(), self._named(request), self._deadline(left)
        further, price = self._further(request), self._admission.prices.price(request, entry)
        with (
            entry.used(),
            used(further.values()),
            self._admission.admitted(call, entry.version, deadline, price) as admitted,
        ):
            admitted.watched = watched
            # The answer is sent after this generator has ended, and holds its memory until then.
            room = self._answers.holding(call.caller, WRITTEN * price.answer)
            call.answer = await call.kept.enter_async_context(room)
            async with aclosing(_timely(admitted, self._run(request, entry, further, admitted))) as answers:
                async for response in answers:
                    yield response

    async def query(self, query: Query, request: Any, left: float | None) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """A device's responses to a query, within `left` seconds. Raises LightwellError."""
        call, deadline, named = current.get(), self._deadline(left), query.named(request)
        async with AsyncExitStack() as stack:
            entry = self._queried(query, named)
            version = stack.enter_context(entry.used()).version if entry is not None else ""
            admission = self._admission.admitted(call, version, deadline, Price(seconds=0.0))
            admitted = stack.enter_context(admission)
            answers = _timely(admitted, self._query(query, request, entry, admitted))
            try:
                async for response in await stack.enter_async_context(aclosing(answers)):
                    yield response
            except NotApplicable as error:
                yield query.not_applicable(error)

    def _deadline(self, left: float | None) -> float:
        """A time of the monotonic clock."""
        return time.monotonic() + min(self._max_seconds if left is None else left, self._max_seconds)

    def _named(self, request: Request) -> ModelVersion:
        """The version that a request is for; sets the method and the model of the current call."""
        current.get().method = method_of(request).name
        return self._version(request)

    def _version(self, request: Any) -> ModelVersion:  # noqa: ANN401 - whatever names a model
        entry = self._registry.get(request.model, request.version)
        current.get().model = entry.name
        return entry

    def _further(self, request: Request) -> dict[str, ModelVersion]:
        """The further models of a request by the parameters that name them. Raises InvalidArgument for one of a wrong
        kind, and the registry's errors for unknown names."""
        found = {role: self._registry.get(name) for role, name in roles(request).items()}
        for role, entry in found.items():
            check_role(request, role, entry.id, entry.kind)
        return found

    def _queried(self, query: Query, named: Any) -> ModelVersion | None:  # noqa: ANN401
        """The version that a query uses, or None."""
        if isinstance(named, explain_pb2.ExplainRequest | synthesize_pb2.SynthesizeRequest):
            return self._named(named)
        return self._version(named) if query.of_model else None

    async def _run(
        self, request: Request, entry: ModelVersion, further: Mapping[str, ModelVersion], admitted: AdmittedRequest
    ) -> AsyncGenerator[Response, None]:
        async with (
            self._decoded(request, entry, further) as images,
            aclosing(self._backend.run(images.request, admitted)) as answers,
        ):
            async for response in answers:
                yield await self._completed(response, images, admitted)

    async def _query(
        self,
        query: Query,
        request: Any,  # noqa: ANN401 - of any rpc
        entry: ModelVersion | None,
        admitted: AdmittedRequest,
    ) -> AsyncGenerator[Message, None]:
        inner = type(request)()
        inner.CopyFrom(request)
        async with AsyncExitStack() as stack:
            asked = query.asked(inner)
            if entry is not None and asked is not None:
                further = self._further(asked)
                stack.enter_context(used(further.values()))
                images = await stack.enter_async_context(self._decoded(asked, entry, further))
                asked.CopyFrom(images.request)
            elif entry is not None:
                inner.model, inner.version = entry.name, entry.version
            await stack.enter_async_context(self._queries.holding(current.get().caller, 1))
            answers = await stack.enter_async_context(aclosing(self._backend.query(query.rpc, inner, admitted)))
            async for response in answers:
                complete = functools.partial(query.complete, response, request)
                yield await self._encoded(query.completing_seconds(response, request), complete)

    @asynccontextmanager
    async def _decoded(
        self, request: Request, entry: ModelVersion, further: Mapping[str, ModelVersion]
    ) -> AsyncIterator[RequestImages]:
        """The decoded pictures of a request, whose memory is held during the block."""
        stop = threading.Event()
        named = {role: model.id for role, model in further.items()}
        read = functools.partial(read_headers, request, entry.described, self._max_pixels, stop, named)
        found = await self._codec.run("header", 0.0, read, stop)
        if found.bytes > self._codec.largest:
            raise InvalidArgument(
                f"the request's pictures take about {found.bytes / 2**20:.0f} MiB while they are decoded and drawn, and"
                f" this server has {self._codec.largest / 2**20:.0f}; send smaller ones, or ask for no pictures",
                reason="PICTURE_TOO_LARGE",
            )
        async with self._codec.room(current.get().caller, found.bytes) as hold:
            images = await self._codec.run("decode", found.seconds, found.seen, stop)
            hold.resize(images.held)
            yield images

    async def _completed(self, response: Response, images: RequestImages, admitted: AdmittedRequest) -> Response:
        """Adds the pictures to a response, and records its cost and size."""
        stop = threading.Event()
        if isinstance(response, synthesize_pb2.Progress):
            admitted.step, admitted.steps = response.step, response.steps
        if isinstance(response, explain_pb2.ExplainProgress) or _undrawn(response):
            return response
        if isinstance(response, synthesize_pb2.Progress):
            return await self._encoded(images.drawing_seconds, functools.partial(images.progress, response, stop), stop)
        provenance = response.provenance
        self._admission.prices.learn(admitted, provenance.device_seconds)
        provenance.attempts, provenance.worker = admitted.attempts, admitted.worker or 0
        if admitted.price.seconds is not None:
            provenance.predicted_seconds = admitted.price.seconds
        provenance.queue_seconds += admitted.waited
        complete: Callable[[Any, threading.Event], Response] = (
            images.explanation if isinstance(response, explain_pb2.ExplainResponse) else images.synthesis
        )
        answer = await self._encoded(images.drawing_seconds, functools.partial(complete, response, stop), stop)
        self._admission.prices.answered(admitted.price, answer.ByteSize())
        return answer

    async def _encoded(self, seconds: float, complete: Callable[[], T], stop: threading.Event | None = None) -> T:
        if not seconds:
            return self._codec.run_inline("encode", complete)
        return await self._codec.run("encode", seconds, complete, stop)


def _undrawn(response: Response) -> bool:
    """Whether it is progress without a picture."""
    return isinstance(response, synthesize_pb2.Progress) and not response.HasField("preview_pixels")


async def _timely(admitted: AdmittedRequest, answers: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The responses within a request's deadline. Raises `DeadlineExceeded`, and `Aborted` if an operator stops the
    request."""
    async with aclosing(answers):
        while (response := await _awaited(admitted, lambda: anext(answers, None))) is not None:
            yield response


async def _awaited(admitted: AdmittedRequest, begin: Callable[[], Awaitable[T]]) -> T:
    try:
        if not admitted.stopped:
            async with asyncio.timeout_at(_moment(admitted.deadline)) as admitted.patience:
                return await begin()
    except TimeoutError:
        if not admitted.stopped:
            raise late() from None
    finally:
        admitted.patience = None
    raise Aborted("an operator stopped this request")


def _moment(deadline: float) -> float:
    """Converts a time of the monotonic clock to the event loop's clock."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()


def late() -> DeadlineExceeded:
    """The error of a request whose deadline has passed."""
    return DeadlineExceeded("the deadline passed before the request was finished")
