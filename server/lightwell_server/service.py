"""The gRPC services. Each call is: understand, run, reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from lightwell.v1 import explain_pb2, explainer_pb2_grpc, models_pb2, synthesize_pb2
from lightwell_server import describe, metrics, reply
from lightwell_server.ask import Frame
from lightwell_server.engine.job import Done, Event, Failed, Job
from lightwell_server.engine.worker import Worker
from lightwell_server.errors import DeadlineExceeded
from lightwell_server.models.store import Store
from lightwell_server.question import Question, Request, understand

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class ExplainerService(explainer_pb2_grpc.ExplainerServiceServicer):
    """Explains and synthesises. Images are decoded and encoded on threads beside the event loop."""

    def __init__(self, store: Store, worker: Worker, max_seconds: float, max_pixels: int) -> None:
        self._store, self._worker = store, worker
        self._max_seconds, self._max_pixels = max_seconds, max_pixels
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="codec")

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        """One request, one answer."""
        question, deadline = await self._understood(request, context)
        async for event, job in self._events(question, deadline):
            if isinstance(event, Done):
                return await self._beside(reply.explanation, question, event.result, job)
        raise DeadlineExceeded("the deadline passed before the request was finished")

    async def Synthesize(
        self, request: synthesize_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[synthesize_pb2.SynthesizeResponse]:
        """Progress, then one result."""
        question, deadline = await self._understood(request, context)
        async for event, job in self._events(question, deadline):
            if isinstance(event, Frame):
                progress = (
                    await self._beside(reply.progress, event) if event.image is not None else reply.progress(event)
                )
                yield synthesize_pb2.SynthesizeResponse(progress=progress)
            elif isinstance(event, Done):
                result = await self._beside(reply.synthesis, question, event.result, job)
                yield synthesize_pb2.SynthesizeResponse(result=result)

    async def _understood(self, request: Request, context: Context) -> tuple[Question, float]:
        left = context.time_remaining()
        deadline = time.monotonic() + min(self._max_seconds if left is None else left, self._max_seconds)
        model = self._store.get(request.model, request.version)
        return await self._beside(understand, request, model, self._max_pixels), deadline

    async def _events(self, question: Question, deadline: float) -> AsyncIterator[tuple[Event, Job]]:
        """Runs a question; yields its frames and its end. A caller that leaves stops the work at the next step."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        job = question.job(lambda event: _tell(loop, events, event), deadline)
        self._worker.submit(job)
        try:
            while True:
                event = await asyncio.wait_for(events.get(), deadline - time.monotonic())
                if isinstance(event, Failed):
                    raise event.error
                yield event, job
                if isinstance(event, Done):
                    metrics.queue_seconds.labels(job.method).observe(job.queued)
                    return
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the request was finished") from None
        finally:
            self._worker.cancel(job)

    async def _beside(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _tell(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    """Hands an event from the engine's thread to the loop's."""
    loop.call_soon_threadsafe(events.put_nowait, event)


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
        return describe.described(self._store.get(request.model, request.version))
