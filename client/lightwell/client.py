"""The synchronous client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from google.protobuf.message import Message

from lightwell import calls
from lightwell.calls import OnError
from lightwell.filters import Filters
from lightwell.images import ImageLike
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
from lightwell.transport.retry import Again, Event, Next, attempts
from lightwell.v1 import admin_pb2, explain_pb2, explainer_pb2_grpc, models_pb2
from lightwell.v1 import types_pb2 as types
from lightwell.waiting import Begun, Waiting, driven

T = TypeVar("T")


class Stream(Generic[ResultT]):
    """A response that is streamed. Iterating gives its progress; `result()` waits for the end; leaving it early cancels
    it."""

    def __init__(self, events: Iterable[Event], source: types.Image | None = None) -> None:
        self._events, self._source = events, source
        self._result: ResultT | None = None

    def __iter__(self) -> Iterator[Progress]:
        try:
            for event in self._events:
                if event.HasField("progress"):
                    yield Progress.of(event.progress)
                else:
                    self._result = result_of(event.result, self._source)
        finally:
            if self._result is None:
                self.cancel()

    def cancel(self) -> None:
        """Stops the work on the server at its next step."""
        if isinstance(self._events, _Attempts):
            self._events.cancel()
        elif isinstance(self._events, Generator):
            self._events.close()

    def result(self) -> ResultT:
        """Waits for the result. Raises `LightwellError`, and RuntimeError if the stream was left before its result."""
        for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the stream ended, or was left, before its result")
        return self._result


class Client(Waiting):
    """A connection to a server; safe for threads.

    `timeout` is in seconds a call, retries included (None: the server's limit). `tls` is True for the system's
    authorities, or a file with others; `certificate` is the client's own, files with the chain and the key. `token` is
    a bearer token, or a function that returns one at each call.

    A call that fails because the server cannot be reached is repeated up to `retries` times (0: never; at most 4 for a
    call with a single response). A stream that breaks off is requested again. Progress that was reported is not
    reported again, and each new progress resets the count of retries.
    """

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
        self._channel = self._connection.open(address)
        self._explainer = explainer_pb2_grpc.ExplainerServiceStub(self._channel)
        self._models = explainer_pb2_grpc.ModelServiceStub(self._channel)
        self._admin = explainer_pb2_grpc.AdminServiceStub(self._channel)
        self._threads = ThreadPoolExecutor(CONCURRENCY, "lightwell")

    @overload
    def explain(self, image: ImageLike | None, method: Message, **options: Unpack[ExplainOptions]) -> Explanation: ...

    @overload
    def explain(
        self, image: ImageLike | None, method: Message, *, targets: int, **options: Unpack[ExplainOptions]
    ) -> list[Explanation]: ...

    def explain(
        self, image: ImageLike | None, method: Message, *, targets: int | None = None, **options: Unpack[ExplainOptions]
    ) -> Explanation | list[Explanation]:
        """Explains an image: what the model saw, as a map or tensors. `options` are those of `ExplainOptions`. With
        `targets` that many classes of the highest scores are explained, or as many as there are, the highest first, and
        a list comes back. Raises `LightwellError`; ValueError if `targets` is less than 1 or comes with a target, or
        for a method that looks at no target."""
        return self._result(calls.explain(image, method, targets, options))

    def explain_stream(
        self, image: ImageLike | None, method: Message, **options: Unpack[ExplainOptions]
    ) -> Stream[Explanation]:
        """Explains an image and tells how far the work is, for explanations that take seconds, such as a dense
        occlusion. `options` are those of `ExplainOptions`. Iterate over the stream for progress, or call its
        `result()`. Raises `LightwellError`."""
        request = explain_request(image, method, **options)
        streamed = explain_pb2.ExplainStreamRequest(request=request)
        return Stream(_Attempts(self._explainer.ExplainStream, streamed, self._connection), request.image)

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> Stream[Synthesis]:
        """Synthesises an image: what would change the model's mind, or what it dreams of. `options` are those of
        `SynthesizeOptions`. Iterate over the stream for progress, or call its `result()`. Raises `LightwellError`."""
        request = synthesize_request(method, **options)
        return Stream(_Attempts(self._explainer.Synthesize, request, self._connection))

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
    ) -> Iterator[Explanation]: ...

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
    ) -> Iterator[Explanation | Exception]: ...

    def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[ExplainOptions],
    ) -> Iterator[Explanation | Exception]:
        """Explains many images with one method, with at most `concurrency` requests in flight, and gives the results in
        the images' order. `options` are those of `ExplainOptions`; `progress` shows a bar. Raises `LightwellError`, or
        what is wrong with an image, when that image's turn comes; with `on_error` "return" that is given in the place
        of its explanation, unless no request can succeed."""
        yield from self._given(calls.explain_all(images, method, concurrency, on_error, options), progress)

    def sheet(
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
        plan = Plan(images, methods, targets, models, sweep or {}, options)
        return self._result(calls.sheet(plan), progress)

    def estimate(self, method: Message, image: ImageLike | None = None, **options: Unpack[Options]) -> Estimate:
        """What a request of either kind would cost, and how it would be understood; nothing is run. `options` are those
        of `Options`. A method that does not apply to the model is told in the answer. Raises `LightwellError` where the
        request itself would, and TypeError for what is no method."""
        return Estimate.of(self._asked(self._explainer.Estimate, estimate_request(method, image, **options)))

    def models(self) -> list[models_pb2.ModelSummary]:
        """Every version of every model, in a line each. Raises `LightwellError`."""
        return list(self._asked(self._models.ListModels, models_pb2.ListModelsRequest()).models)

    def model(self, name: str = "", version: str = "") -> models_pb2.GetModelResponse:
        """One version (`version` unset: the newest; `name` unset: the only model): its card, its layers, and which
        methods apply. Raises `LightwellError`."""
        return self._asked(self._models.GetModel, models_pb2.GetModelRequest(model=name, version=version))

    def filters(self, layer: str = "", model: str = "", version: str = "", picture: bool = False) -> Filters:
        """The weights of a convolution or a linear layer, float32 (`layer` unset: of the first convolution). With
        `picture` they are drawn where the model is. Raises `LightwellError`."""
        request = models_pb2.GetFiltersRequest(model=model, version=version, layer=layer, picture=picture)
        return Filters(self._asked(self._models.GetFilters, request))

    def status(self) -> admin_pb2.GetStatusResponse:
        """How the server, its workers and its models are. Needs the right `admin`. Raises `LightwellError`."""
        return self._asked(self._admin.GetStatus, admin_pb2.GetStatusRequest())

    def jobs(self) -> list[admin_pb2.Job]:
        """The requests that are admitted and not over, in the order in which they came. Needs the right `admin`. Raises
        `LightwellError`."""
        return list(self._asked(self._admin.ListJobs, admin_pb2.ListJobsRequest()).jobs)

    def stop_job(self, number: int) -> None:
        """Stops the job with a `number` of `jobs()`; its caller gets `AbortedError`. It is not sent again where the
        server is lost: another server's job may have the number. Needs the right `admin`. Raises `NotFoundError` for a
        job that is over."""
        self._asked(self._admin.StopJob, admin_pb2.StopJobRequest(number=number))

    def load_model(self, name: str, version: str = "") -> models_pb2.GetModelResponse:
        """Loads a version of the repository (`version` unset: the newest) beside those that answer, and returns when it
        answers. Needs the right `admin`. Raises `LightwellError` if it cannot be loaded; the others go on answering."""
        request = admin_pb2.LoadModelRequest(model=name, version=version)
        return self._asked(self._admin.LoadModel, request).model

    def unload_model(self, name: str, version: str) -> None:
        """Unloads a version: it takes no further requests, and those that it has are finished. Needs the right `admin`.
        Raises `LightwellError`."""
        self._asked(self._admin.UnloadModel, admin_pb2.UnloadModelRequest(model=name, version=version))

    def close(self) -> None:
        """Closes the connection; calls in progress are cancelled."""
        self._channel.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, ask: Callable[..., T], request: Message) -> T:
        request_id = new_request_id()
        with translated(request_id):
            return ask(request, **self._connection.call(request_id))

    def _begun(self, request: Any) -> Begun:  # noqa: ANN401 - of either kind
        if not isinstance(request, explain_pb2.ExplainRequest):
            return _BegunStream(Stream(_Attempts(self._explainer.Synthesize, request, self._connection)), self._threads)
        request_id = new_request_id()
        call = self._explainer.Explain.future(request, **self._connection.call(request_id))
        return _BegunCall(call, request.image, request_id)


@dataclass(frozen=True)
class _BegunCall:
    """An explanation that was requested and has not arrived."""

    call: Any  # grpc's future has no public type
    source: types.Image
    request_id: str

    def answer(self) -> Explanation:
        with translated(self.request_id):
            return Explanation(self.call.result(), self.source)

    def cancel(self) -> None:
        self.call.cancel()


class _BegunStream:
    """A synthesis whose stream is read on a thread."""

    def __init__(self, stream: Stream[Synthesis], threads: ThreadPoolExecutor) -> None:
        self._stream, self._result = stream, threads.submit(stream.result)

    def answer(self) -> Synthesis:
        return self._result.result()

    def cancel(self) -> None:
        self._stream.cancel()
        self._result.cancel()


class _Attempts:
    """The events of a stream, which is requested again if it breaks off. `cancel` may be called from any thread."""

    def __init__(self, ask: Callable[..., Any], request: Message, connection: Connection) -> None:
        self._ask, self._request, self._connection = ask, request, connection
        self._request_id, self._course = new_request_id(), connection.course()
        self._cancelled = threading.Event()
        self._begin()

    def __iter__(self) -> Iterator[Event]:
        return driven(attempts(self._course), self._perform)

    def _perform(self, step: Next | Again) -> Event | None:
        if isinstance(step, Next):
            with translated(self._request_id):
                return next(self._call, None)
        if self._cancelled.wait(step.seconds):
            raise cancelled(self._request_id)
        self._begin()
        return None

    def cancel(self) -> None:
        self._cancelled.set()
        self._call.cancel()

    def _begin(self) -> None:
        arguments = {**self._connection.call(self._request_id), "timeout": self._course.left()}
        self._call = self._ask(self._request, **arguments)
        if self._cancelled.is_set():  # cancelled while the call was being made
            self._call.cancel()
