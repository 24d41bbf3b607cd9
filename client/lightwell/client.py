"""The client for programs that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import grpc
from google.protobuf.message import Message

from lightwell import channel
from lightwell.errors import from_rpc
from lightwell.images import ImageLike
from lightwell.progress import shown
from lightwell.requests import ExplainOptions, SynthesizeOptions, explain_request, synthesize_request
from lightwell.results import Explanation, Progress, Synthesis
from lightwell.v1 import explainer_pb2_grpc, models_pb2, synthesize_pb2


class Stream:
    """A synthesis on its way. Iterating gives its progress; `result()` waits for the end; leaving it early cancels
    it."""

    def __init__(self, events: Iterator[synthesize_pb2.SynthesizeResponse]) -> None:
        self._events = events
        self._result: Synthesis | None = None

    def __iter__(self) -> Iterator[Progress]:
        try:
            for event in self._events:
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
        if isinstance(self._events, grpc.Call):
            self._events.cancel()
        elif isinstance(self._events, Generator):
            self._events.close()

    def result(self) -> Synthesis:
        """Waits for the result."""
        for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the stream ended, or was left, before its result")
        return self._result


class Client:
    """A connection to a server; safe for threads. `timeout` is in seconds a call (None: the server's limit), `tls`
    True, False or a file of certificate authorities, `token` a bearer token."""

    def __init__(
        self, address: str, *, timeout: float | None = None, tls: str | Path | bool = False, token: str | None = None
    ) -> None:
        secure = channel.credentials(tls)
        opts = channel.options()
        self._channel = grpc.secure_channel(address, secure, opts) if secure else grpc.insecure_channel(address, opts)
        self._explainer = explainer_pb2_grpc.ExplainerServiceStub(self._channel)
        self._models = explainer_pb2_grpc.ModelServiceStub(self._channel)
        self._call: dict[str, Any] = {"timeout": timeout, "metadata": channel.metadata(token)}

    def explain(self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]) -> Explanation:
        """Explains an image; options as in `ExplainOptions`. Raises `LightwellError`."""
        request = explain_request(image, method, **options)
        try:
            return Explanation(self._explainer.Explain(request, **self._call), request.image)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> Stream:
        """Synthesises an image; options as in `SynthesizeOptions`. Iterate over it for progress, or call its
        `result()`."""
        return Stream(self._explainer.Synthesize(synthesize_request(method, **options), **self._call))

    def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = 32,
        progress: bool = False,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[Explanation]:
        """Explains many images, at most `concurrency` at a time; results in the images' order. `progress` shows a
        bar."""
        total = len(images) if isinstance(images, Sized) else None
        yield from shown(self._answers(images, method, concurrency, options), total, progress)

    def _answers(
        self, images: Iterable[ImageLike], method: Message, concurrency: int, options: ExplainOptions
    ) -> Iterator[Explanation]:
        """The answers in order. An image that cannot be read raises when its turn comes."""
        calls: deque[tuple[Any, Any]] = deque()
        unreadable: Exception | None = None
        try:
            for image in images:
                try:
                    request = explain_request(image, method, **options)
                except (OSError, ValueError) as error:
                    unreadable = error
                    break
                calls.append((self._explainer.Explain.future(request, **self._call), request.image))
                if len(calls) >= concurrency:
                    yield _waited(*calls.popleft())
            while calls:
                yield _waited(*calls.popleft())
        finally:
            for call, _ in calls:
                call.cancel()
        if unreadable is not None:
            raise unreadable

    def models(self) -> list[models_pb2.ModelSummary]:
        """Every version of every model."""
        try:
            return list(self._models.ListModels(models_pb2.ListModelsRequest(), **self._call).models)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def model(self, name: str = "", version: str = "") -> models_pb2.GetModelResponse:
        """One version: its card, its layers, and which methods apply."""
        try:
            return self._models.GetModel(models_pb2.GetModelRequest(model=name, version=version), **self._call)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _waited(call: Any, source: Any) -> Explanation:  # noqa: ANN401 - grpc's future has no public type
    try:
        return Explanation(call.result(), source)
    except grpc.RpcError as error:
        raise from_rpc(error) from None
