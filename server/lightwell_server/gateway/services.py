"""The gRPC services for callers. Each call is: admit, decode, run, encode."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc

from lightwell.v1 import estimate_pb2, explain_pb2, explainer_pb2_grpc, models_pb2, synthesize_pb2
from lightwell_server.catalog import Request, method_of
from lightwell_server.errors import Aborted, DeadlineExceeded, InvalidArgument, NotApplicable
from lightwell_server.gateway.admission import Admission
from lightwell_server.gateway.codec_pool import CodecPool
from lightwell_server.gateway.images import RequestImages, read_headers, with_picture
from lightwell_server.gateway.registry import ModelRegistry, ModelVersion
from lightwell_server.requests.admitted import AdmittedRequest, Price
from lightwell_server.requests.backend import Backend, Response
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import WRITTEN, Call, current

T = TypeVar("T")
FILTERS = 1e-7
"""Seconds that drawing a layer's weights takes for each of their bytes, about."""
LIGHT = 16
"""Calls that tell of models, at a time."""
Context = grpc.aio.ServicerContext[Any, Any]


class ExplainerService(explainer_pb2_grpc.ExplainerServiceServicer):
    """Explains and synthesises. Images are decoded and drawn by the `codec`; `answers` are the bytes that answers may
    take together. A request has `max_seconds`, its images `max_pixels`."""

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
        self._codec, self._answers = codec, answers
        self._max_seconds, self._max_pixels = max_seconds, max_pixels

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        """One request, one answer."""
        async with aclosing(self._answered(request, context)) as answers:
            async for response in answers:
                if isinstance(response, explain_pb2.ExplainResponse):
                    return response
        raise _late()

    async def ExplainStream(
        self, request: explain_pb2.ExplainStreamRequest, context: Context
    ) -> AsyncIterator[explain_pb2.ExplainStreamResponse]:
        """Progress, then one result."""
        async with aclosing(self._answered(request.request, context, watched=True)) as answers:
            async for response in answers:
                if isinstance(response, explain_pb2.ExplainProgress):
                    yield explain_pb2.ExplainStreamResponse(progress=response)
                elif isinstance(response, explain_pb2.ExplainResponse):
                    yield explain_pb2.ExplainStreamResponse(result=response)

    async def Synthesize(
        self, request: synthesize_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[synthesize_pb2.SynthesizeResponse]:
        """Progress, then one result."""
        async with aclosing(self._answered(request, context, watched=True)) as answers:
            async for response in answers:
                if isinstance(response, synthesize_pb2.Progress):
                    yield synthesize_pb2.SynthesizeResponse(progress=response)
                elif isinstance(response, synthesize_pb2.SynthesizeResult):
                    yield synthesize_pb2.SynthesizeResponse(result=response)

    async def Estimate(self, request: estimate_pb2.EstimateRequest, context: Context) -> estimate_pb2.EstimateResponse:
        """What a request would cost; a method that does not apply is an answer, not a failure."""
        kind = request.WhichOneof("request")
        if kind is None:
            raise InvalidArgument.at("request", "set one of explain, synthesize")
        asked: Request = getattr(request, kind)
        call, entry, deadline = current.get(), self._named(asked), self._deadline(context)
        with entry.used(), self._admission.admitted(call, entry.version, deadline, Price(seconds=0.0)) as admitted:
            try:
                return await _timely(admitted, lambda: self._estimated(kind, asked, entry))
            except NotApplicable as error:
                return estimate_pb2.EstimateResponse(applies=False, reason=error.message)

    async def _estimated(self, kind: str, asked: Request, entry: ModelVersion) -> estimate_pb2.EstimateResponse:
        async with self._seen(asked, entry) as images:
            response = await self._backend.estimate(estimate_pb2.EstimateRequest(**{kind: images.request}))
            resolved = response.WhichOneof("resolved")
            if resolved is not None:
                images.understood(getattr(response, resolved))
            return response

    def _deadline(self, context: Context) -> float:
        """A moment of the monotonic clock."""
        left = context.time_remaining()
        return time.monotonic() + min(self._max_seconds if left is None else left, self._max_seconds)

    def _named(self, request: Request) -> ModelVersion:
        """The version that a request is for; the call is told what it is about."""
        call = current.get()
        call.method = method_of(request).name
        entry = self._registry.get(request.model, request.version)
        call.model = entry.name
        return entry

    async def _answered(
        self, request: Request, context: Context, watched: bool = False
    ) -> AsyncGenerator[Response, None]:
        """A request's progress and result, as its caller gets them."""
        call, entry, deadline = current.get(), self._named(request), self._deadline(context)
        price = self._admission.prices.price(request, entry)
        with entry.used(), self._admission.admitted(call, entry.version, deadline, price) as admitted:
            admitted.watched = watched
            room, answers = WRITTEN * price.answer, self._run(request, entry, admitted)
            # It is sent when this has ended, and takes its room until then.
            call.answer = await call.kept.enter_async_context(self._answers.holding(call.caller, room))
            async with aclosing(answers):
                while (response := await _timely(admitted, lambda: anext(answers, None))) is not None:
                    yield response

    async def _run(
        self, request: Request, entry: ModelVersion, admitted: AdmittedRequest
    ) -> AsyncGenerator[Response, None]:
        async with (
            self._seen(request, entry) as images,
            aclosing(self._backend.run(images.request, admitted)) as answers,
        ):
            async for response in answers:
                yield await self._completed(response, images, admitted)

    @asynccontextmanager
    async def _seen(self, request: Request, entry: ModelVersion) -> AsyncIterator[RequestImages]:
        """The decoded pictures of a request, whose bytes are held for as long as they are needed."""
        stop = threading.Event()
        read = functools.partial(read_headers, request, entry.described, self._max_pixels, stop)
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
        """Puts the pictures into an answer, and takes note of it."""
        if isinstance(response, synthesize_pb2.Progress):
            admitted.step, admitted.steps = response.step, response.steps
            return (
                await self._encoded(images, images.progress, response)
                if response.HasField("preview_pixels")
                else response
            )
        if isinstance(response, explain_pb2.ExplainProgress):
            return response
        provenance = response.provenance
        self._admission.prices.learn(admitted, provenance.device_seconds)
        provenance.attempts, provenance.worker = admitted.attempts, admitted.worker or 0
        if admitted.price.seconds is not None:
            provenance.predicted_seconds = admitted.price.seconds
        provenance.queue_seconds += admitted.waited
        complete: Callable[[Any, threading.Event], Response] = (
            images.explanation if isinstance(response, explain_pb2.ExplainResponse) else images.synthesis
        )
        answer = await self._encoded(images, complete, response)
        self._admission.prices.answered(admitted.price, answer.ByteSize())
        return answer

    async def _encoded(self, images: RequestImages, complete: Callable[[Any, threading.Event], T], response: Any) -> T:  # noqa: ANN401
        stop = threading.Event()
        if not images.drawing_seconds:
            return self._codec.run_inline("encode", lambda: complete(response, stop))
        return await self._codec.run(
            "encode", images.drawing_seconds, functools.partial(complete, response, stop), stop
        )


async def _timely(admitted: AdmittedRequest, begin: Callable[[], Awaitable[T]]) -> T:
    """What is begun and awaited within a request's time. Raises `DeadlineExceeded`, and `Aborted` if an operator stops
    the request."""
    try:
        if not admitted.stopped:
            async with asyncio.timeout_at(_moment(admitted.deadline)) as admitted.patience:
                return await begin()
    except TimeoutError:
        if not admitted.stopped:
            raise _late() from None
    finally:
        admitted.patience = None
    raise Aborted("an operator stopped this request")


def _moment(deadline: float) -> float:
    """A moment of the monotonic clock on the event loop's."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the request was finished")


class ModelService(explainer_pb2_grpc.ModelServiceServicer):
    """Tells what can be asked."""

    def __init__(self, registry: ModelRegistry, backend: Backend, codec: CodecPool) -> None:
        self._registry, self._backend, self._codec = registry, backend, codec
        self._light = Budget(LIGHT, "the calls that tell of models")

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Every version of every model."""
        return self._registry.listed()

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.GetModelResponse:
        """One version."""
        entry = self._registry.get(request.model, request.version)
        call: Call = current.get()
        call.model = entry.name
        return entry.described

    async def GetFilters(
        self, request: models_pb2.GetFiltersRequest, context: Context
    ) -> models_pb2.GetFiltersResponse:
        """A layer's weights, and if asked for their picture."""
        entry = self._registry.get(request.model, request.version)
        current.get().model = entry.name
        inner = models_pb2.GetFiltersRequest(model=entry.name, version=entry.version, layer=request.layer)
        async with self._light.holding(current.get().caller, 1):
            with entry.used():
                response = await self._backend.filters(inner)
            if not request.picture:
                return response
            seconds = FILTERS * len(response.weights.data)
            return await self._codec.run("encode", seconds, functools.partial(with_picture, response))
