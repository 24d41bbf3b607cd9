"""The asynchronous client: the calls of `Client`, to be awaited on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import ExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from google.protobuf.message import Message

from lightwell import calls
from lightwell.calls import OnError
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
    synthesize_request,
)
from lightwell.results import Estimate, Explanation, Progress, ResultT, Synthesis, result_of
from lightwell.sheets.plan import Plan, SheetOptions, Sweep
from lightwell.sheets.sheet import Sheet
from lightwell.transport.channel import Certificate, Connection, Token, new_request_id
from lightwell.transport.errors import cancelled, translated
from lightwell.transport.retry import Again, Event, Give, Next, attempts
from lightwell.v1 import admin_pb2, explain_pb2, explainer_pb2_grpc, models_pb2
from lightwell.v1 import types_pb2 as types

T = TypeVar("T")


class AsyncStream(Generic[ResultT]):
    """A response that is streamed. Iterating gives its progress; `await result()` waits for the end; leaving it early
    cancels it."""

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
        """Waits for the result. Raises `LightwellError`, and RuntimeError if the stream was left before its result."""
        async for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the stream ended, or was left, before its result")
        return self._result


class AsyncClient:
    """A connection to a server, used from one event loop.

    `timeout` is in seconds a call, retries included (None: the server's limit). `tls` is True for the system's
    authorities, or a file with others; `certificate` is the client's own, files with the chain and the key. `token` is
    a bearer token, or a function that is called for one at each call. `retries` is how often a call is sent again, from
    0, as for `Client`."""

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
    async def explain(
        self, image: ImageLike | None, method: Message, **options: Unpack[ExplainOptions]
    ) -> Explanation: ...

    @overload
    async def explain(
        self, image: ImageLike | None, method: Message, *, targets: int, **options: Unpack[ExplainOptions]
    ) -> list[Explanation]: ...

    async def explain(
        self, image: ImageLike | None, method: Message, *, targets: int | None = None, **options: Unpack[ExplainOptions]
    ) -> Explanation | list[Explanation]:
        """Explains an image: what the model saw, as a map or tensors. `options` are those of `ExplainOptions`. With
        `targets` that many classes of the highest scores are explained, or as many as there are, the highest first, and
        a list comes back. Raises `LightwellError`; ValueError if `targets` is less than 1 or comes with a target, or
        for a method that looks at no target."""
        return await self._result(calls.explain(image, method, targets, options))

    def explain_stream(
        self, image: ImageLike | None, method: Message, **options: Unpack[ExplainOptions]
    ) -> AsyncStream[Explanation]:
        """Explains an image and tells how far the work is, for explanations that take seconds, such as a dense
        occlusion. `options` are those of `ExplainOptions`. Iterate over the stream for progress, or call its
        `result()`. Raises `LightwellError`."""
        request = explain_request(image, method, **options)
        streamed = explain_pb2.ExplainStreamRequest(request=request)
        return AsyncStream(_Attempts(self._explainer.ExplainStream, streamed, self._connection), request.image)

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> AsyncStream[Synthesis]:
        """Synthesises an image: what would change the model's mind, or what it dreams of. `options` are those of
        `SynthesizeOptions`. Iterate over the stream for progress, or call its `result()`. Raises `LightwellError`."""
        request = synthesize_request(method, **options)
        return AsyncStream(_Attempts(self._explainer.Synthesize, request, self._connection))

    @overload
    def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ExplainOptions],
    ) -> AsyncIterator[Explanation]: ...

    @overload
    def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        on_error: Literal["return"],
        **options: Unpack[ExplainOptions],
    ) -> AsyncIterator[Explanation | Exception]: ...

    async def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[ExplainOptions],
    ) -> AsyncIterator[Explanation | Exception]:
        """Explains many images with one method, with at most `concurrency` requests in flight, and gives the results in
        the images' order. `options` are those of `ExplainOptions`; `progress` shows a bar. Raises `LightwellError`, or
        what is wrong with an image, when that image's turn comes; with `on_error` "return" that is given in the place
        of its explanation, unless no request can succeed."""
        async with aclosing(
            self._given(calls.explain_all(images, method, concurrency, on_error, options), progress)
        ) as given:
            async for answer in given:
                yield answer

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
        """Asks for many answers to be seen side by side: a row for each image, model and target, a column for each
        method. `targets` are several targets, or the number of classes of the highest scores; `methods` may be of
        `synthesize`, too. `sweep` gives parameters several values, each in a column of its own, for the methods that
        have them. `options` are those of `SheetOptions`; `progress` shows a bar. A request that fails is told in its
        place. Raises `LightwellError` where every request would fail, `Usage` for a sweep of no parameter, and OSError
        for an image that cannot be read."""
        plan = await asyncio.to_thread(Plan, images, methods, targets, models, sweep or {}, options)
        return await self._result(calls.sheet(plan), progress)

    async def estimate(self, method: Message, image: ImageLike | None = None, **options: Unpack[Options]) -> Estimate:
        """What a request of either kind would cost, and how it would be understood; nothing is run. `options` are those
        of `Options`. A method that does not apply to the model is told in the answer. Raises `LightwellError` where the
        request itself would, and TypeError for what is no method."""
        return Estimate.of(await self._asked(self._explainer.Estimate, estimate_request(method, image, **options)))

    async def models(self) -> list[models_pb2.ModelSummary]:
        """Every version of every model, in a line each. Raises `LightwellError`."""
        return list((await self._asked(self._models.ListModels, models_pb2.ListModelsRequest())).models)

    async def model(self, name: str = "", version: str = "") -> models_pb2.GetModelResponse:
        """One version (`version` unset: the newest; `name` unset: the only model): its card, its layers, and which
        methods apply. Raises `LightwellError`."""
        request = models_pb2.GetModelRequest(model=name, version=version)
        return await self._asked(self._models.GetModel, request)

    async def filters(self, layer: str = "", model: str = "", version: str = "", picture: bool = False) -> Filters:
        """The weights of a convolution or a linear layer, float32 (`layer` unset: of the first convolution). With
        `picture` they are drawn where the model is. Raises `LightwellError`."""
        request = models_pb2.GetFiltersRequest(model=model, version=version, layer=layer, picture=picture)
        return Filters(await self._asked(self._models.GetFilters, request))

    async def status(self) -> admin_pb2.GetStatusResponse:
        """How the server, its workers and its models are. Needs the right `admin`. Raises `LightwellError`."""
        return await self._asked(self._admin.GetStatus, admin_pb2.GetStatusRequest())

    async def jobs(self) -> list[admin_pb2.Job]:
        """The requests that are admitted and not over, in the order in which they came. Needs the right `admin`. Raises
        `LightwellError`."""
        return list((await self._asked(self._admin.ListJobs, admin_pb2.ListJobsRequest())).jobs)

    async def stop_job(self, number: int) -> None:
        """Stops the job with a `number` of `jobs()`; its caller gets `AbortedError`. It is not sent again where the
        server is lost: another server's job may have the number. Needs the right `admin`. Raises `NotFoundError` for a
        job that is over."""
        await self._asked(self._admin.StopJob, admin_pb2.StopJobRequest(number=number))

    async def load_model(self, name: str, version: str = "") -> models_pb2.GetModelResponse:
        """Loads a version of the repository (`version` unset: the newest) beside those that answer, and returns when it
        answers. Needs the right `admin`. Raises `LightwellError` if it cannot be loaded; the others go on answering."""
        request = admin_pb2.LoadModelRequest(model=name, version=version)
        answer: admin_pb2.LoadModelResponse = await self._asked(self._admin.LoadModel, request)
        return answer.model

    async def unload_model(self, name: str, version: str) -> None:
        """Unloads a version: it takes no further requests, and those that it has are finished. Needs the right `admin`.
        Raises `LightwellError`."""
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

    async def _answer(self, make: calls.Make) -> Any:  # noqa: ANN401 - of either kind
        """Makes a request, on a thread since that may take long, and waits for its answer."""
        request = await asyncio.to_thread(make)
        if not isinstance(request, explain_pb2.ExplainRequest):
            return await AsyncStream(_Attempts(self._explainer.Synthesize, request, self._connection)).result()
        return Explanation(await self._asked(self._explainer.Explain, request), request.image)

    async def _result(self, steps: calls.Call[T], progress: bool = False) -> T:
        """What a call returns."""
        result: list[T] = []
        async with aclosing(self._given(steps, progress, result.append)) as given:
            async for _ in given:
                pass
        return result[0]

    async def _given(
        self, steps: calls.Call[T], progress: bool, returned: Callable[[T], object] = bool
    ) -> AsyncGenerator[Any, None]:
        """What a call gives; it is told to `returned` what it returns. What is in flight at its end is cancelled."""
        with ExitStack() as stack:
            begun: list[asyncio.Task[Any]] = []
            stack.callback(lambda: [task.cancel() for task in begun])
            advance: Callable[[], object] = bool

            async def perform(step: calls.Begin | calls.Wait | calls.Total) -> Any:  # noqa: ANN401
                nonlocal advance
                if isinstance(step, calls.Total):
                    advance = stack.enter_context(bar(step.count, progress))
                    return None
                if isinstance(step, calls.Begin):
                    begun.append(asyncio.create_task(self._answer(step.make)))
                    return begun[-1]
                await asyncio.wait([step.begun])
                begun.remove(step.begun)
                return await step.begun

            async with aclosing(_driven(steps, perform, returned)) as given:
                async for answer in given:
                    yield answer
                    advance()


def _of_call_or_task(request_id: str) -> BaseException:
    """The exception for a cancelled call, or for a cancelled task: gRPC raises CancelledError for both, but only the
    latter must propagate."""
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else cancelled(request_id)


async def _driven(
    steps: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]], returned: Callable[[T], object] = bool
) -> AsyncGenerator[Any, None]:
    """As `waiting.driven`, on an event loop."""
    reply: Any = None
    failure: Exception | None = None
    try:
        while True:
            try:
                step = steps.send(reply) if failure is None else steps.throw(failure)
            except StopIteration as end:
                returned(end.value)
                return
            reply = failure = None
            if isinstance(step, Give):
                yield step.value
                continue
            try:
                reply = await perform(step)
            except Exception as error:
                failure = error
    finally:
        steps.close()


class _Attempts(AsyncIterable[Event]):
    """The events of a stream, which is requested again if it breaks off."""

    def __init__(self, ask: Callable[..., Any], request: Message, connection: Connection) -> None:
        self._ask, self._request, self._connection = ask, request, connection
        self._request_id, self._course = new_request_id(), connection.course()
        self._cancelled = asyncio.Event()
        self._begin()

    def __aiter__(self) -> AsyncIterator[Event]:
        self._events = aiter(self._call)
        return _driven(attempts(self._course), self._perform)

    async def _perform(self, step: Next | Again) -> Event | None:
        if isinstance(step, Next):
            try:
                with translated(self._request_id):
                    return await anext(self._events, None)
            except asyncio.CancelledError:
                raise _of_call_or_task(self._request_id) from None
        if await self._cancelled_within(step.seconds):
            raise cancelled(self._request_id)
        self._begin()
        self._events = aiter(self._call)
        return None

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
