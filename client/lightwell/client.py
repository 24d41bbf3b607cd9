"""The client for programs that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
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
from lightwell.sheets.plan import Plan, SheetOptions, Sweep, ask_all
from lightwell.sheets.sheet import Sheet
from lightwell.transport.channel import Certificate, Connection, Token, new_request_id
from lightwell.transport.errors import cancelled, from_rpc, translated
from lightwell.transport.retry import Event
from lightwell.v1 import admin_pb2, explain_pb2, explainer_pb2_grpc, models_pb2
from lightwell.v1 import types_pb2 as types

T = TypeVar("T")


class Stream(Generic[ResultT]):
    """An answer on its way. Iterating gives its progress; `result()` waits for the end; leaving it early cancels it."""

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
        """Waits for the result. Raises `LightwellError`."""
        for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the stream ended, or was left, before its result")
        return self._result


class Client:
    """A connection to a server; safe for threads.

    `timeout` is in seconds a call, retries included (None: the server's limit). `tls` is True for the system's
    authorities, or a file with others; `certificate` is the client's own, files with the chain and the key. `token` is
    a bearer token, or a function that is called for one at each call.

    What fails because no server can be reached is asked again up to `retries` times (0: never; where there is a single
    answer, at most four). A stream that breaks off is asked again with the same request; progress that was shown is
    not shown again, and the count starts anew when there is more.
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

    @overload
    def explain(self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]) -> Explanation: ...

    @overload
    def explain(
        self, image: ImageLike, method: Message, *, targets: int, **options: Unpack[ExplainOptions]
    ) -> list[Explanation]: ...

    def explain(
        self, image: ImageLike, method: Message, *, targets: int | None = None, **options: Unpack[ExplainOptions]
    ) -> Explanation | list[Explanation]:
        """Explains an image; options as in `ExplainOptions`. With `targets` the classes of the highest scores are
        explained, that many or as many as there are, the highest first. Raises `LightwellError`."""
        if targets is None:
            return self._begun(explain_request(image, method, **options)).answer()
        first = self._begun(top_request(image, method, targets, **options)).answer()
        return [first, *self._answers(others(first, targets, method, **options), CONCURRENCY)]

    def explain_stream(
        self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]
    ) -> Stream[Explanation]:
        """Explains an image and tells how far it is: for explanations that take seconds, such as a dense occlusion."""
        request = explain_request(image, method, **options)
        streamed = explain_pb2.ExplainStreamRequest(request=request)
        return Stream(_Attempts(self._explainer.ExplainStream, streamed, self._connection), request.image)

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> Stream[Synthesis]:
        """Synthesises an image; options as in `SynthesizeOptions`. Iterate over it for progress, or call its
        `result()`."""
        request = synthesize_request(method, **options)
        return Stream(_Attempts(self._explainer.Synthesize, request, self._connection))

    def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[Explanation]:
        """Explains many images, at most `concurrency` at a time; results in the images' order. An image that cannot be
        read or explained raises when its turn comes. `progress` shows a bar."""
        total = len(images) if isinstance(images, Sized) else None
        requests = (explain_request(image, method, **options) for image in images)
        with bar(total, progress) as advance:
            for answer in self._answers(requests, concurrency):
                yield answer
                advance()

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
        """Asks for many answers at once, to be seen side by side: of each image, model and target a row, of each method
        a column. `targets` are several, or how many classes of the highest scores; methods of `synthesize` may be
        among the `methods`. `sweep` has parameters with the values that each takes in turn, in columns of their own,
        for the methods that have them. `progress` shows a bar. What fails is told in its place; errors of the server
        are raised."""
        return ask_all(Plan(images, methods, targets, models, sweep or {}, options), self, progress)

    def estimate(self, method: Message, image: ImageLike | None = None, **options: Unpack[Options]) -> Estimate:
        """What a request would cost, of either kind by the method's type, and how it would be understood; nothing is
        run. Raises `LightwellError` where the request itself would, except for a method that does not apply."""
        return Estimate.of(self._asked(self._explainer.Estimate, estimate_request(method, image, **options)))

    def models(self) -> list[models_pb2.ModelSummary]:
        """Every version of every model."""
        return list(self._asked(self._models.ListModels, models_pb2.ListModelsRequest()).models)

    def model(self, name: str = "", version: str = "") -> models_pb2.GetModelResponse:
        """One version: its card, its layers, and which methods apply."""
        return self._asked(self._models.GetModel, models_pb2.GetModelRequest(model=name, version=version))

    def filters(self, layer: str = "", model: str = "", version: str = "", picture: bool = False) -> Filters:
        """The weights of a convolution or a linear layer (unset: of the first convolution); with `picture` the server
        draws them. Raises `LightwellError`."""
        request = models_pb2.GetFiltersRequest(model=model, version=version, layer=layer, picture=picture)
        return Filters(self._asked(self._models.GetFilters, request))

    def status(self) -> admin_pb2.GetStatusResponse:
        """How the server, its workers and its models are. This and all below need the right to administer."""
        return self._asked(self._admin.GetStatus, admin_pb2.GetStatusRequest())

    def jobs(self) -> list[admin_pb2.Job]:
        """The requests that have been admitted and are not over, in the order in which they were."""
        return list(self._asked(self._admin.ListJobs, admin_pb2.ListJobsRequest()).jobs)

    def stop_job(self, number: int) -> None:
        """Stops a job by its number among `jobs()`; its caller gets `AbortedError`. Raises `NotFoundError` for one that
        is over. Not asked again where the server is lost: another server's job may have the number."""
        self._asked(self._admin.StopJob, admin_pb2.StopJobRequest(number=number))

    def load_model(self, name: str, version: str = "") -> models_pb2.GetModelResponse:
        """Loads a version of the repository (unset: the newest) beside those that answer, and returns when it answers.
        Raises `LightwellError` if it cannot be loaded; the others answer on."""
        request = admin_pb2.LoadModelRequest(model=name, version=version)
        return self._asked(self._admin.LoadModel, request).model

    def unload_model(self, name: str, version: str) -> None:
        """Lets go of a version: it takes no further requests, and those that it has are finished."""
        self._asked(self._admin.UnloadModel, admin_pb2.UnloadModelRequest(model=name, version=version))

    def close(self) -> None:
        """Closes the connection; calls in progress are cancelled."""
        self._channel.close()

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

    def _begun(self, request: explain_pb2.ExplainRequest) -> _Begun:
        request_id = new_request_id()
        call = self._explainer.Explain.future(request, **self._connection.call(request_id))
        return _Begun(call, request.image, request_id)

    def _answers(self, requests: Iterator[explain_pb2.ExplainRequest], concurrency: int) -> Iterator[Explanation]:
        """The answers in order, at most `concurrency` calls at a time. What is wrong with a request is raised when its
        turn comes: the answers before it are not lost."""
        begun: deque[_Begun] = deque()
        wrong: Exception | None = None
        try:
            while wrong is None:
                try:
                    begun.append(self._begun(next(requests)))
                except StopIteration:
                    break
                except Exception as error:
                    wrong = error
                if len(begun) >= concurrency:
                    yield begun.popleft().answer()
            while begun:
                yield begun.popleft().answer()
        finally:
            for left in begun:
                left.call.cancel()
        if wrong is not None:
            raise wrong


@dataclass(frozen=True)
class _Begun:
    """An explanation that is asked for and not yet there."""

    call: Any  # grpc's future has no public type
    source: types.Image
    request_id: str

    def answer(self) -> Explanation:
        with translated(self.request_id):
            return Explanation(self.call.result(), self.source)


class _Attempts:
    """The events of a stream that is asked again where it breaks off. `cancel` may be called from any thread."""

    def __init__(self, ask: Callable[..., Any], request: Message, connection: Connection) -> None:
        self._ask, self._request, self._connection = ask, request, connection
        self._request_id, self._course = new_request_id(), connection.course()
        self._cancelled = threading.Event()
        self._begin()

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                yield from filter(self._course.is_new, self._call)
                return
            except grpc.RpcError as error:
                if self._course.finished:  # only its status was lost
                    return
                seconds = self._course.pause(from_rpc(error, self._request_id))
            if self._cancelled.wait(seconds):
                raise cancelled(self._request_id)
            self._begin()

    def cancel(self) -> None:
        self._cancelled.set()
        self._call.cancel()

    def _begin(self) -> None:
        arguments = {**self._connection.call(self._request_id), "timeout": self._course.left()}
        self._call = self._ask(self._request, **arguments)
        if self._cancelled.is_set():  # while the call was being made
            self._call.cancel()
