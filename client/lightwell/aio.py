"""The client for programs on an event loop. The same calls as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, Unpack, overload

import grpc
from google.protobuf.message import Message

from lightwell.filters import Filters
from lightwell.images import ImageLike
from lightwell.progress import bar
from lightwell.requests import (
    CONCURRENCY,
    ExplainOptions,
    Options,
    SynthesizeOptions,
    TargetLike,
    estimate_request,
    explain_request,
    others,
    synthesize_request,
    top_request,
)
from lightwell.results import Estimate, Explanation, Progress, ResultT, Synthesis, result_of
from lightwell.sheets.plan import Cell, Plan, SheetOptions, Sweep, asked, settled
from lightwell.sheets.sheet import Sheet
from lightwell.sheets.table import Answer
from lightwell.transport.channel import Certificate, Connection, Token, new_request_id
from lightwell.transport.errors import LightwellError, cancelled, from_rpc, translated
from lightwell.transport.retry import Event
from lightwell.v1 import admin_pb2, explain_pb2, explainer_pb2_grpc, models_pb2
from lightwell.v1 import types_pb2 as types

T = TypeVar("T")


class AsyncStream(Generic[ResultT]):
    """An answer on its way. Iterating gives its progress; `await result()` waits for the end; leaving it early cancels
    it."""

    def __init__(self, events: _Attempts, source: types.Image | None = None) -> None:
        self._events, self._source = events, source
        self._result: ResultT | None = None

    async def __aiter__(self) -> AsyncIterator[Progress]:
        try:
            async for event in self._events:
                if event.HasField("progress"):
                    yield Progress.of(event.progress)
                else:
                    self._result = result_of(event.result, self._source)
        finally:
            if self._result is None:
                self.cancel()

    def cancel(self) -> None:
        """Stops the work on the server at its next step."""
        self._events.cancel()

    async def result(self) -> ResultT:
        """Waits for the result. Raises `LightwellError`."""
        async for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the stream ended, or was left, before its result")
        return self._result


class AsyncClient:
    """A connection to a server, used from one event loop. Arguments as for `Client`."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        tls: str | Path | bool = False,
        certificate: Certificate | None = None,
        token: Token = None,
        retries: int = 3,
    ) -> None:
        self._connection = Connection(timeout, tls, certificate, token, retries)
        self._channel = self._connection.open_async(address)
        self._explainer: Any = explainer_pb2_grpc.ExplainerServiceStub(self._channel)
        self._models: Any = explainer_pb2_grpc.ModelServiceStub(self._channel)
        self._admin: Any = explainer_pb2_grpc.AdminServiceStub(self._channel)

    @overload
    async def explain(self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]) -> Explanation: ...

    @overload
    async def explain(
        self, image: ImageLike, method: Message, *, targets: int, **options: Unpack[ExplainOptions]
    ) -> list[Explanation]: ...

    async def explain(
        self, image: ImageLike, method: Message, *, targets: int | None = None, **options: Unpack[ExplainOptions]
    ) -> Explanation | list[Explanation]:
        """Explains an image, or with `targets` its classes of the highest scores; as `Client.explain`."""
        # Reading and encoding an image may take long: the loop goes on meanwhile.
        if targets is None:
            return await self._explained(await asyncio.to_thread(explain_request, image, method, **options))
        first = await self._explained(await asyncio.to_thread(top_request, image, method, targets, **options))
        rest = (self._explained(request) for request in others(first, targets, method, **options))
        return [first, *[answer async for answer in _in_order(rest, CONCURRENCY)]]

    def explain_stream(
        self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]
    ) -> AsyncStream[Explanation]:
        """Explains an image and tells how far it is; as `Client.explain_stream`."""
        request = explain_request(image, method, **options)
        streamed = explain_pb2.ExplainStreamRequest(request=request)
        return AsyncStream(_Attempts(self._explainer.ExplainStream, streamed, self._connection), request.image)

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> AsyncStream[Synthesis]:
        """Synthesises an image; options as for `Client.synthesize`."""
        request = synthesize_request(method, **options)
        return AsyncStream(_Attempts(self._explainer.Synthesize, request, self._connection))

    async def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ExplainOptions],
    ) -> AsyncIterator[Explanation]:
        """Explains many images in order; as `Client.explain_all`."""
        total = len(images) if isinstance(images, Sized) else None
        asked = (self.explain(image, method, **options) for image in images)
        with bar(total, progress) as advance:
            async with aclosing(_in_order(asked, concurrency)) as answers:  # who leaves early cancels what is begun
                async for answer in answers:
                    yield answer
                    advance()

    async def sheet(
        self,
        images: ImageLike | Sequence[ImageLike],
        methods: Message | Sequence[Message],
        *,
        targets: int | Sequence[TargetLike] = (None,),
        models: str | Sequence[str] = "",
        sweep: Sweep | None = None,
        progress: bool = False,
        **options: Unpack[SheetOptions],
    ) -> Sheet:
        """Asks for many answers at once, to be seen side by side; as `Client.sheet`."""
        plan = await asyncio.to_thread(Plan, images, methods, targets, models, sweep or {}, options)
        first = [answer async for answer in self._cells(plan, plan.questions())]
        cells, answers = plan.cells(first), []
        with bar(len(cells), progress) as advance:
            async with aclosing(self._cells(plan, cells)) as answered:
                async for answer in answered:
                    answers.append(answer)
                    advance()
        return plan.sheet(cells, answers)

    def _cells(self, plan: Plan, cells: Sequence[Cell]) -> AsyncGenerator[Answer, None]:
        return _in_order((self._cell(cell, plan.options) for cell in cells), CONCURRENCY)

    async def _cell(self, cell: Cell, options: SheetOptions) -> Answer:
        try:
            return settled(cell, await asked(cell, self, options))
        except LightwellError as error:
            return settled(cell, error)

    async def estimate(self, method: Message, image: ImageLike | None = None, **options: Unpack[Options]) -> Estimate:
        """What a request would cost; as `Client.estimate`."""
        return Estimate.of(await self._asked(self._explainer.Estimate, estimate_request(method, image, **options)))

    async def models(self) -> list[models_pb2.ModelSummary]:
        """Every version of every model."""
        return list((await self._asked(self._models.ListModels, models_pb2.ListModelsRequest())).models)

    async def model(self, name: str = "", version: str = "") -> models_pb2.GetModelResponse:
        """One version: its card, its layers, and which methods apply."""
        request = models_pb2.GetModelRequest(model=name, version=version)
        return await self._asked(self._models.GetModel, request)

    async def filters(self, layer: str = "", model: str = "", version: str = "", picture: bool = False) -> Filters:
        """The weights of a layer; as `Client.filters`."""
        request = models_pb2.GetFiltersRequest(model=model, version=version, layer=layer, picture=picture)
        return Filters(await self._asked(self._models.GetFilters, request))

    async def status(self) -> admin_pb2.GetStatusResponse:
        """How the server, its workers and its models are; as `Client.status`."""
        return await self._asked(self._admin.GetStatus, admin_pb2.GetStatusRequest())

    async def jobs(self) -> list[admin_pb2.Job]:
        """The requests that have been admitted and are not over; as `Client.jobs`."""
        return list((await self._asked(self._admin.ListJobs, admin_pb2.ListJobsRequest())).jobs)

    async def stop_job(self, number: int) -> None:
        """Stops a job by its number; as `Client.stop_job`."""
        await self._asked(self._admin.StopJob, admin_pb2.StopJobRequest(number=number))

    async def load_model(self, name: str, version: str = "") -> models_pb2.GetModelResponse:
        """Loads a version of the repository; as `Client.load_model`."""
        request = admin_pb2.LoadModelRequest(model=name, version=version)
        answer: admin_pb2.LoadModelResponse = await self._asked(self._admin.LoadModel, request)
        return answer.model

    async def unload_model(self, name: str, version: str) -> None:
        """Lets go of a version; as `Client.unload_model`."""
        await self._asked(self._admin.UnloadModel, admin_pb2.UnloadModelRequest(model=name, version=version))

    async def close(self) -> None:
        """Closes the connection; calls in progress are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _asked(self, ask: Callable[..., Awaitable[T]], request: Message) -> T:
        request_id = new_request_id()
        try:
            with translated(request_id):
                return await ask(request, **self._connection.call(request_id))
        except asyncio.CancelledError:
            raise _of_call_or_task(request_id) from None

    async def _explained(self, request: explain_pb2.ExplainRequest) -> Explanation:
        return Explanation(await self._asked(self._explainer.Explain, request), request.image)


def _of_call_or_task(request_id: str) -> BaseException:
    """gRPC raises the same exception where a call was cancelled as a task does that was cancelled itself. The one is an
    error of ours, the other must go on."""
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else cancelled(request_id)


async def _in_order(asked: Iterator[Coroutine[Any, Any, T]], concurrency: int) -> AsyncGenerator[T, None]:
    """The answers in order, at most `concurrency` calls at a time. What is wrong with a request is raised when its turn
    comes: the answers before it are not lost."""
    begun: deque[asyncio.Task[T]] = deque()
    wrong: Exception | None = None
    try:
        while wrong is None:
            try:
                begun.append(asyncio.create_task(next(asked)))
            except StopIteration:
                break
            except Exception as error:
                wrong = error
            if len(begun) >= concurrency:
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for task in begun:
            task.cancel()
    if wrong is not None:
        raise wrong


class _Attempts(AsyncIterable[Event]):
    """The events of a stream that is asked again where it breaks off."""

    def __init__(self, ask: Callable[..., Any], request: Message, connection: Connection) -> None:
        self._ask, self._request, self._connection = ask, request, connection
        self._request_id, self._course = new_request_id(), connection.course()
        self._cancelled = asyncio.Event()
        self._begin()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            try:
                async for event in self._call:
                    if self._course.is_new(event):
                        yield event
                return
            except grpc.RpcError as error:
                if self._course.finished:  # only its status was lost
                    return
                seconds = self._course.pause(from_rpc(error, self._request_id))
            except asyncio.CancelledError:
                raise _of_call_or_task(self._request_id) from None
            if await self._cancelled_within(seconds):
                raise cancelled(self._request_id)
            self._begin()

    def cancel(self) -> None:
        self._cancelled.set()
        self._call.cancel()

    async def _cancelled_within(self, seconds: float) -> bool:
        try:
            return await asyncio.wait_for(self._cancelled.wait(), seconds)
        except TimeoutError:
            return False

    def _begin(self) -> None:
        arguments = {**self._connection.call(self._request_id), "timeout": self._course.left()}
        self._call = self._ask(self._request, **arguments)
