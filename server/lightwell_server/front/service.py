"""The gRPC services for callers. Each call is: admit, decode, run, encode."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import grpc

from lightwell.v1 import estimate_pb2, explain_pb2, explainer_pb2_grpc, models_pb2, synthesize_pb2
from lightwell_server import metrics
from lightwell_server.call import Call, current
from lightwell_server.case import Case, Price
from lightwell_server.catalog import Request, method_of
from lightwell_server.core import Core, Told
from lightwell_server.errors import Aborted, DeadlineExceeded, InvalidArgument, NotApplicable, Overloaded
from lightwell_server.front.admission import Admission
from lightwell_server.front.library import Entry, Library
from lightwell_server.front.sight import Sight, look, with_picture
from lightwell_server.threads import beside

T = TypeVar("T")
STALLED = 5.0
"""Seconds after its deadline that a stream may still take to be read."""
Context = grpc.aio.ServicerContext[Any, Any]


class ExplainerService(explainer_pb2_grpc.ExplainerServiceServicer):
    """Explains and synthesises. Images are decoded and encoded on threads beside the event loop. A request has
    `max_seconds`, its images `max_pixels`, and the pictures of all in progress `max_held` bytes."""

    def __init__(
        self, library: Library, core: Core, admission: Admission, max_seconds: float, max_pixels: int, max_held: int
    ) -> None:
        self._library, self._core, self._admission = library, core, admission
        self._max_seconds, self._max_pixels, self._max_held = max_seconds, max_pixels, max_held
        self._threads, self._held = beside(4, "codec"), 0

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        """One request, one answer."""
        async with aclosing(self._answered(request, context)) as answers:
            async for told in answers:
                if isinstance(told, explain_pb2.ExplainResponse):
                    return told
        raise _late()

    async def ExplainStream(
        self, request: explain_pb2.ExplainStreamRequest, context: Context
    ) -> AsyncIterator[explain_pb2.ExplainStreamResponse]:
        """Progress, then one result."""
        async with aclosing(self._answered(request.request, context, watched=True)) as answers:
            async for told in answers:
                if isinstance(told, explain_pb2.ExplainProgress):
                    yield explain_pb2.ExplainStreamResponse(progress=told)
                elif isinstance(told, explain_pb2.ExplainResponse):
                    yield explain_pb2.ExplainStreamResponse(result=told)

    async def Synthesize(
        self, request: synthesize_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[synthesize_pb2.SynthesizeResponse]:
        """Progress, then one result."""
        async with aclosing(self._answered(request, context, watched=True)) as answers:
            async for told in answers:
                if isinstance(told, synthesize_pb2.Progress):
                    yield synthesize_pb2.SynthesizeResponse(progress=told)
                elif isinstance(told, synthesize_pb2.SynthesizeResult):
                    yield synthesize_pb2.SynthesizeResponse(result=told)

    async def Estimate(self, request: estimate_pb2.EstimateRequest, context: Context) -> estimate_pb2.EstimateResponse:
        """What a request would cost; a method that does not apply is an answer, not a failure."""
        kind = request.WhichOneof("request")
        if kind is None:
            raise InvalidArgument.at("request", "set one of explain, synthesize")
        asked: Request = getattr(request, kind)
        call, entry, deadline = current.get(), self._named(asked), self._deadline(context)
        with entry.used(), self._admission.admitted(call, entry.version, deadline, Price(seconds=0.0)) as case:
            try:
                sight = await self._beside("decode", look, asked, entry.described, self._max_pixels)
            except NotApplicable as error:
                return estimate_pb2.EstimateResponse(applies=False, reason=error.message)
            inner = estimate_pb2.EstimateRequest(**{kind: sight.request})
            response = await _timely(case, lambda: self._core.estimate(inner))
        resolved = response.WhichOneof("resolved")
        if resolved is not None:
            sight.understood(getattr(response, resolved))
        return response

    def _deadline(self, context: Context) -> float:
        """A moment of the monotonic clock."""
        left = context.time_remaining()
        return time.monotonic() + min(self._max_seconds if left is None else left, self._max_seconds)

    def _named(self, request: Request) -> Entry:
        """The version that a request is for; the call is told what it is about."""
        call = current.get()
        call.method = method_of(request).name
        entry = self._library.get(request.model, request.version)
        call.model = entry.name
        return entry

    async def _answered(self, request: Request, context: Context, watched: bool = False) -> AsyncGenerator[Told, None]:
        """A request's progress and result, as its caller gets them."""
        call, entry, deadline = current.get(), self._named(request), self._deadline(context)
        price = self._admission.prices.price(request, entry)
        with entry.used(), self._admission.admitted(call, entry.version, deadline, price) as case:
            case.watched = watched
            with _cut_off(_moment(deadline + STALLED)):
                async with aclosing(self._run(request, entry, case)) as answers:
                    while (told := await _timely(case, lambda: anext(answers, None))) is not None:
                        yield told

    async def _run(self, request: Request, entry: Entry, case: Case) -> AsyncGenerator[Told, None]:
        sight = await self._beside("decode", look, request, entry.described, self._max_pixels)
        with self._holding(sight.held):
            async with aclosing(self._core.run(sight.request, case)) as answers:
                async for told in answers:
                    yield await self._completed(told, sight, case)

    async def _completed(self, told: Told, sight: Sight, case: Case) -> Told:
        """Puts the pictures into an answer, and takes note of it."""
        if isinstance(told, synthesize_pb2.Progress):
            case.step, case.steps = told.step, told.steps
            return await self._beside("encode", sight.progress, told) if told.HasField("preview_pixels") else told
        if isinstance(told, explain_pb2.ExplainProgress):
            return told
        provenance = told.provenance
        self._admission.prices.learn(case, provenance.device_seconds)
        provenance.attempts, provenance.worker = case.attempts, case.worker or 0
        if case.price.seconds is not None:
            provenance.predicted_seconds = case.price.seconds
        provenance.queue_seconds += case.waited
        if isinstance(told, explain_pb2.ExplainResponse):
            return await self._beside("encode", sight.explanation, told)
        return await self._beside("encode", sight.synthesis, told)

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        """Counts the bytes of a request's pictures while it is in progress. Raises `Overloaded` if those of all would
        take too much of the memory; one alone is always let in."""
        if self._held and self._held + size > self._max_held:
            raise Overloaded("the pictures of the requests in progress fill the memory; try again later")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def _beside(self, name: str, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
        """Runs a function on a thread beside the loop; its time is noted under that name."""
        call = current.get()
        began = len(call.moments)
        run = functools.partial(call.timed, name, functools.partial(function, *arguments))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        finally:
            for moment in call.moments[began:]:
                metrics.codec_seconds.labels(moment.name).observe(moment.seconds)


async def _timely(case: Case, begin: Callable[[], Awaitable[T]]) -> T:
    """What is begun and awaited within a request's time. Raises `DeadlineExceeded`, and `Aborted` if an operator stops
    the request."""
    try:
        if not case.stopped:
            async with asyncio.timeout_at(_moment(case.deadline)) as case.patience:
                return await begin()
    except TimeoutError:
        if not case.stopped:
            raise _late() from None
    finally:
        case.patience = None
    raise Aborted("an operator stopped this request")


@contextmanager
def _cut_off(moment: float) -> Iterator[None]:
    """Cancels what is done inside at a moment of the event loop's clock: a reader that stalls would keep it waiting for
    ever, outside of all that has a limit of its own."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    cut = loop.call_at(moment, task.cancel)
    try:
        yield
    finally:
        cut.cancel()


def _moment(deadline: float) -> float:
    """A moment of the monotonic clock on the event loop's."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the request was finished")


class ModelService(explainer_pb2_grpc.ModelServiceServicer):
    """Tells what can be asked."""

    def __init__(self, library: Library, core: Core) -> None:
        self._library, self._core = library, core

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Every version of every model."""
        return self._library.listed()

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.GetModelResponse:
        """One version."""
        entry = self._library.get(request.model, request.version)
        call: Call = current.get()
        call.model = entry.name
        return entry.described

    async def GetFilters(
        self, request: models_pb2.GetFiltersRequest, context: Context
    ) -> models_pb2.GetFiltersResponse:
        """A layer's weights, and if asked for their picture."""
        entry = self._library.get(request.model, request.version)
        current.get().model = entry.name
        inner = models_pb2.GetFiltersRequest(model=entry.name, version=entry.version, layer=request.layer)
        with entry.used():
            response = await self._core.filters(inner)
        return await asyncio.to_thread(with_picture, response) if request.picture else response
