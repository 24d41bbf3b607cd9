"""The gRPC services for callers: the pipeline's responses in the messages of each call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from lightwell.v1 import explain_pb2, models_pb2, synthesize_pb2
from lightwell_server.catalog import Request
from lightwell_server.gateway.pipeline import Pipeline, late
from lightwell_server.gateway.registry import ModelRegistry
from lightwell_server.requests.call import current
from lightwell_server.runtime.queries import Query

Context = grpc.aio.ServicerContext[Any, Any]


class ExplainerService:
    """Explains and synthesises."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        """One request, one response."""
        async with aclosing(self._pipeline.run(request, context.time_remaining())) as answers:
            async for response in answers:
                if isinstance(response, explain_pb2.ExplainResponse):
                    return response
        raise late()

    async def ExplainStream(
        self, request: explain_pb2.ExplainStreamRequest, context: Context
    ) -> AsyncIterator[explain_pb2.ExplainStreamResponse]:
        """Progress, then one result."""
        async with aclosing(self._events(request.request, context)) as events:
            async for event in events:
                yield explain_pb2.ExplainStreamResponse(**event)

    async def Synthesize(
        self, request: synthesize_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[synthesize_pb2.SynthesizeResponse]:
        """Progress, then one result."""
        async with aclosing(self._events(request, context)) as events:
            async for event in events:
                yield synthesize_pb2.SynthesizeResponse(**event)

    async def _events(self, request: Request, context: Context) -> AsyncGenerator[dict[str, Any], None]:
        """The only field of each message of a stream."""
        async with aclosing(self._pipeline.run(request, context.time_remaining(), watched=True)) as answers:
            async for response in answers:
                progress = isinstance(response, explain_pb2.ExplainProgress | synthesize_pb2.Progress)
                yield {"progress" if progress else "result": response}


class ModelService:
    """Describes the models."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Every version of every model."""
        return self._registry.listed()

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.GetModelResponse:
        """One version."""
        entry = self._registry.get(request.model, request.version)
        current.get().model = entry.name
        return entry.described


def answered(pipeline: Pipeline, queries: Mapping[str, Query]) -> dict[str, Callable[..., Any]]:
    """The functions of the queries, by rpc."""
    return {rpc: (_stream if query.streams else _single)(pipeline, query) for rpc, query in queries.items()}


def _stream(pipeline: Pipeline, query: Query) -> Callable[..., Any]:
    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - of any rpc
        async with aclosing(pipeline.query(query, request, context.time_remaining())) as answers:
            async for response in answers:
                yield response

    return stream


def _single(pipeline: Pipeline, query: Query) -> Callable[..., Any]:
    async def single(request: Any, context: Context) -> Any:  # noqa: ANN401 - of any rpc
        async with aclosing(pipeline.query(query, request, context.time_remaining())) as answers:
            return await anext(answers)

    return single
