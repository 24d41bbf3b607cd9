"""The gRPC services. Each call is: understand, run, reply."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import grpc

from lightwell.v1 import estimate_pb2, explain_pb2, explainer_pb2_grpc, models_pb2, synthesize_pb2
from lightwell_server import describe, metrics, reply
from lightwell_server.ask import Frame
from lightwell_server.call import Call, current
from lightwell_server.call import Moment as Stretch
from lightwell_server.engine.job import Done, Event, Failed, Job, Passed
from lightwell_server.engine.worker import Worker
from lightwell_server.errors import DeadlineExceeded, InvalidArgument, NotApplicable, Overloaded
from lightwell_server.estimate import estimate
from lightwell_server.inbox import Inbox
from lightwell_server.limits import Limits
from lightwell_server.models.store import Store
from lightwell_server.question import Question, Request, method_of, understand
from lightwell_server.threads import beside

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class ExplainerService(explainer_pb2_grpc.ExplainerServiceServicer):
    """Explains and synthesises. Images are decoded and encoded on threads beside the event loop."""

    def __init__(self, store: Store, worker: Worker, limits: Limits) -> None:
        self._store, self._worker, self._limits = store, worker, limits
        self._threads, self._waiting, self._held = beside(4, "codec"), 0, 0

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        """One request, one answer."""
        question, deadline = await self._understood(request, context)
        async with aclosing(self._events(question, deadline)) as events:
            async for event, job in events:
                if isinstance(event, Done):
                    return await self._beside("encode", reply.explanation, question, event.result, job)
        raise _late()

    async def ExplainStream(
        self, request: explain_pb2.ExplainStreamRequest, context: Context
    ) -> AsyncIterator[explain_pb2.ExplainStreamResponse]:
        """Progress, then one result."""
        question, deadline = await self._understood(request.request, context)
        async with aclosing(self._events(question, deadline, watched=True)) as events:
            async for event, job in events:
                if isinstance(event, Passed):
                    progress = explain_pb2.ExplainProgress(row=event.row, rows=event.rows)
                    yield explain_pb2.ExplainStreamResponse(progress=progress)
                elif isinstance(event, Done):
                    result = await self._beside("encode", reply.explanation, question, event.result, job)
                    yield explain_pb2.ExplainStreamResponse(result=result)

    async def Synthesize(
        self, request: synthesize_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[synthesize_pb2.SynthesizeResponse]:
        """Progress, then one result. What would not fit is refused before its first step."""
        question, deadline = await self._understood(request, context, priced=True)
        async with aclosing(self._events(question, deadline)) as events:
            async for event, job in events:
                if isinstance(event, Frame):
                    drawn = event.image is not None
                    progress = await self._beside("encode", reply.progress, event) if drawn else reply.progress(event)
                    yield synthesize_pb2.SynthesizeResponse(progress=progress)
                elif isinstance(event, Done):
                    result = await self._beside("encode", reply.synthesis, question, event.result, job)
                    yield synthesize_pb2.SynthesizeResponse(result=result)

    async def Estimate(self, request: estimate_pb2.EstimateRequest, context: Context) -> estimate_pb2.EstimateResponse:
        """What a request would cost; a method that does not apply is an answer, not a failure."""
        kind = request.WhichOneof("request")
        if kind is None:
            raise InvalidArgument.at("request", "set one of explain, synthesize")
        try:
            question, _ = await self._understood(getattr(request, kind), context)
        except NotApplicable as error:
            return estimate_pb2.EstimateResponse(applies=False, reason=error.message)
        cost = await self._beside("estimate", estimate, question, self._limits, self._worker.seconds)
        return reply.estimation(question, cost, self._limits.bytes)

    async def _understood(self, request: Request, context: Context, priced: bool = False) -> tuple[Question, float]:
        """The question and its deadline; `priced`, its cost is checked against the limits, too. What waits for that has
        its bytes in memory already: it counts among the requests in progress."""
        call, left = current.get(), context.time_remaining()
        deadline = time.monotonic() + min(self._limits.seconds if left is None else left, self._limits.seconds)
        call.method = method_of(request).name
        model = self._store.get(request.model, request.version)
        call.model = model.name
        self._worker.expect(self._waiting)
        self._waiting += 1
        try:
            question = await self._beside("decode", understand, request, model, self._limits)
            if priced:
                await self._beside("estimate", estimate, question, self._limits, self._worker.seconds)
            return question, deadline
        finally:
            self._waiting -= 1

    async def _events(
        self, question: Question, deadline: float, watched: bool = False
    ) -> AsyncGenerator[tuple[Event, Job], None]:
        """Runs a question; yields its progress and its end. A caller that leaves stops the work at the next step."""
        inbox = Inbox(asyncio.get_running_loop())
        job = question.job(inbox.put, deadline, watched, current.get().id)
        with self._holding(question.held):
            self._worker.submit(job)
            try:
                while True:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        event = await inbox.get()
                    if isinstance(event, Failed):
                        raise event.error
                    yield event, job
                    if isinstance(event, Done):
                        return
            except TimeoutError:
                raise _late() from None
            finally:
                self._worker.cancel(job)
                metrics.queue_seconds.labels(job.method).observe(job.queued)
                _note(current.get(), job)

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        """Counts the bytes of a request's pictures while it is in progress. Raises `Overloaded` if those of all would
        take too much of the memory; one alone is always let in."""
        if self._held and self._held + size > self._limits.bytes // 4:
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


def _note(call: Call, job: Job) -> None:
    """Puts the engine's part into the call's time."""
    call.moments += [Stretch(m.name, m.began, m.ended, {"lightwell.rows": m.rows}) for m in job.moments]


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the request was finished")


class ModelService(explainer_pb2_grpc.ModelServiceServicer):
    """Tells what can be asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Every version of every model."""
        return describe.listed(self._store)

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.GetModelResponse:
        """One version."""
        model = self._store.get(request.model, request.version)
        current.get().model = model.name
        return describe.described(model)
