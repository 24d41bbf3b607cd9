"""The same calls as the SDK's client, in this process: for notebooks, tests and bulk work."""

from __future__ import annotations

import queue
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Unpack

import torch
from google.protobuf.message import Message

from lightwell.client import Stream
from lightwell.errors import error_for
from lightwell.images import ImageLike
from lightwell.requests import ExplainOptions, SynthesizeOptions, explain_request, synthesize_request
from lightwell.results import Explanation
from lightwell.v1.synthesize_pb2 import SynthesizeRequest, SynthesizeResponse
from lightwell_server import reply
from lightwell_server.ask import Frame
from lightwell_server.bring.trace import trace
from lightwell_server.engine.job import Done, Event, Failed, Job
from lightwell_server.engine.worker import Worker
from lightwell_server.errors import InvalidArgument, LightwellError
from lightwell_server.models.answer import answer
from lightwell_server.models.card import Card
from lightwell_server.models.store import Model, load_file
from lightwell_server.question import Question, Request, understand


class Local:
    """A model in this process: a `.pt` or `.pt2` file, an `nn.Module` (it is traced), or a loaded model. `card` says
    what the file does not; `labels` names the classes. Errors are the SDK's."""

    def __init__(
        self,
        model: str | Path | torch.nn.Module | Model,
        card: Card | None = None,
        labels: tuple[str, ...] = (),
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = _loaded(model, card or Card(), labels, device, dtype)
        self._worker = Worker(answer, name="local")

    def explain(self, image: ImageLike, method: Message, **options: Unpack[ExplainOptions]) -> Explanation:
        """Explains an image; options as for `Client.explain`."""
        return _finished(self._begun(image, method, options))

    def explain_all(
        self,
        images: Iterable[ImageLike],
        method: Message,
        *,
        concurrency: int = 32,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[Explanation]:
        """Explains many images, at most `concurrency` at a time; results in the images' order."""
        begun: deque[_Running] = deque()
        for image in images:
            begun.append(self._begun(image, method, options))
            if len(begun) >= concurrency:
                yield _finished(begun.popleft())
        while begun:
            yield _finished(begun.popleft())

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> Stream:
        """Synthesises an image; options as for `Client.synthesize`."""
        request = synthesize_request(method, **options)
        return Stream(self._streamed(request))

    def close(self) -> None:
        """Ends the thread of the engine."""
        self._worker.stop()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self, image: ImageLike, method: Message, options: ExplainOptions) -> _Running:
        request = explain_request(image, method, **options)
        return self._submitted(request)

    def _submitted(self, request: Request) -> _Running:
        try:
            running = _Running(understand(request, self.model))
            self._worker.submit(running.job)
        except LightwellError as error:
            raise _told(error) from None
        return running

    def _streamed(self, request: SynthesizeRequest) -> Iterator[SynthesizeResponse]:
        running = self._submitted(request)
        try:
            for event in running:
                if isinstance(event, Frame):
                    yield SynthesizeResponse(progress=reply.progress(event))
                elif isinstance(event, Done):
                    yield SynthesizeResponse(result=reply.synthesis(running.question, event.result, running.job))
        finally:
            self._worker.cancel(running.job)


class _Running:
    """A question at work; iterating gives its events."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.job: Job = question.job(self.events.put)

    def __iter__(self) -> Iterator[Event]:
        event: Event | None = None
        while not isinstance(event, Done):
            event = self.events.get()
            if isinstance(event, Failed):
                raise _told(event.error)
            yield event


def _finished(running: _Running) -> Explanation:
    *_, done = running
    response = reply.explanation(running.question, done.result, running.job)  # type: ignore[union-attr]
    return Explanation(response, running.question.request.image)


def _told(error: LightwellError) -> Exception:
    violations = tuple(error.violations) if isinstance(error, InvalidArgument) else ()
    return error_for(error.code, error.message, error.reason, violations)


def _loaded(
    model: str | Path | torch.nn.Module | Model, card: Card, labels: tuple[str, ...], device: str, dtype: torch.dtype
) -> Model:
    if isinstance(model, Model):
        return model
    names = labels or (card.output.labels if isinstance(card.output.labels, tuple) else ())
    try:
        if not isinstance(model, torch.nn.Module):
            return load_file(Path(model), card, names, Path(model).stem, "1", device, dtype)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pt"
            trace(model, tuple(card.sample().example(2)), path)
            return load_file(path, card, names, type(model).__name__, "1", device, dtype)
    except LightwellError as error:
        raise _told(error) from None
