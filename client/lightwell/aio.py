"""The client for programs on an event loop. The same calls as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import grpc
from google.protobuf.message import Message

from lightwell import channel
from lightwell.errors import from_rpc
from lightwell.images import ImageLike
from lightwell.requests import ExplainOptions, SynthesizeOptions, explain_request, synthesize_request
from lightwell.results import Explanation, Progress, Synthesis
from lightwell.v1 import explainer_pb2_grpc, models_pb2


class AsyncStream:
    """A synthesis on its way. Iterating gives its progress; `await result()` waits for the end; leaving it early
    cancels it."""

    def __init__(self, call: Any) -> None:  # noqa: ANN401 - grpc's call has no public type
        self._call = call
        self._result: Synthesis | None = None

    async def __aiter__(self) -> AsyncIterator[Progress]:
        try:
            async for event in self._call:
                if event.HasField("progress"):
                    yield Progress.of(event.progress)
                else:
                    self._result = Synthesis(event.result)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            if self._result is None:
                self.cancel()

    def cancel(self) -> None:
        """Stops the work on the server at its next step."""
        self._call.cancel()

    async def result(self) -> Synthesis:
        """Waits for the result."""
        async for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the stream ended, or was left, before its result")
        return self._result


class AsyncClient:
    """A connection to a server, used from one event loop. Arguments as for `Client`."""

    def __init__(
        self, address: str, *, timeout: float | None = None, tls: str | Path | bool = False, token: str | None = None
    ) -> None:
        secure = channel.credentials(tls)
        opts = channel.options()
        self._channel = (
            grpc.aio.secure_channel(address, secure, opts) if secure else grpc.aio.insecure_channel(address, opts)
        )
        self._explainer: Any = explainer_pb2_grpc.ExplainerServiceStub(self._channel)
        self._models: Any = explainer_pb2_grpc.ModelServiceStub(self._channel)
        self._call: dict[str, Any] = {"timeout": timeout, "metadata": channel.metadata(token)}

    async def explain(self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]) -> Explanation:
        """Explains an image; options as for `Client.explain`."""
        request = explain_request(image, method, **options)
        try:
            return Explanation(await self._explainer.Explain(request, **self._call), request.image)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> AsyncStream:
        """Synthesises an image; options as for `Client.synthesize`."""
        return AsyncStream(self._explainer.Synthesize(synthesize_request(method, **options), **self._call))

    async def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = 32,
        **options: Unpack[ExplainOptions],
    ) -> AsyncIterator[Explanation]:
        """Explains many images, at most `concurrency` at a time; results in the images' order."""
        tasks: deque[asyncio.Task[Explanation]] = deque()
        try:
            for image in images:
                tasks.append(asyncio.create_task(self.explain(image, method, **options)))
                if len(tasks) >= concurrency:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()

    async def models(self) -> list[models_pb2.ModelSummary]:
        """Every version of every model."""
        try:
            return list((await self._models.ListModels(models_pb2.ListModelsRequest(), **self._call)).models)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def model(self, name: str = "", version: str = "") -> models_pb2.GetModelResponse:
        """One version: its card, its layers, and which methods apply."""
        try:
            request = models_pb2.GetModelRequest(model=name, version=version)
            return await self._models.GetModel(request, **self._call)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
