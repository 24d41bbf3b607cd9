"""The same calls as the SDK's client, in this process: for notebooks, tests and bulk work."""

from __future__ import annotations

import queue
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack, overload

import torch
from google.protobuf.message import Message

from lightwell import calls
from lightwell.calls import OnError
from lightwell.client import Stream
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
from lightwell.results import Estimate, Explanation, Synthesis
from lightwell.sheets.plan import Plan, SheetOptions, Sweep
from lightwell.sheets.sheet import Sheet
from lightwell.transport.errors import error_for
from lightwell.v1.explain_pb2 import ExplainProgress, ExplainRequest, ExplainResponse, ExplainStreamResponse
from lightwell.v1.models_pb2 import GetFiltersRequest
from lightwell.v1.synthesize_pb2 import SynthesizeRequest, SynthesizeResponse, SynthesizeResult
from lightwell.waiting import Begun, Waiting
from lightwell_server.catalog import Request, method_of
from lightwell_server.contract import Frame
from lightwell_server.engine.engine import Engine
from lightwell_server.engine.run import Done, Event, Failed, Passed, Run
from lightwell_server.errors import InvalidArgument, LightwellError, NotApplicable, nearest
from lightwell_server.gateway.images import RequestImages, decode_images
from lightwell_server.importing.given import Given
from lightwell_server.importing.published import declared
from lightwell_server.importing.trace import trace
from lightwell_server.models.answer import answer
from lightwell_server.models.card import Card, read
from lightwell_server.models.card import labels as labels_of
from lightwell_server.models.check import verify
from lightwell_server.models.disk import there
from lightwell_server.models.lifting.pixels import example
from lightwell_server.models.store import FILES, Model, load_file, located
from lightwell_server.requests.models import check_role, roles
from lightwell_server.runtime import describe, responses
from lightwell_server.runtime.limits import Limits
from lightwell_server.runtime.prepare import PreparedRequest, prepare
from lightwell_server.runtime.queries import queries

__all__ = ["Card", "Local"]

NOT_DETERMINISTIC = (
    "torch's deterministic algorithms are off in this program; call torch.use_deterministic_algorithms(True) before"
)
"""The exception of a `reproducible` request: a library does not set what belongs to the whole process."""
ANYWHERE = Path("/")
"""Where the files that a card names may lie: a program's own files, unlike a server's repository, are not confined."""


class Local(Waiting):
    """A model in this process: a `.pt` or `.pt2` file, a model's directory of a repository (its newest version, or
    `version`), an `nn.Module` (it is traced), or a loaded model. `card` says what the file does not; without one, the
    `card.toml` beside the file does, with its labels. `labels` names the classes; `further` are other models with cards
    of their own, by the names that a method's parameter may give for them. `size` (height, width), `mean` and `std`
    replace the card's; a network of timm has those of its own configuration, and its labels. Errors are the SDK's,
    OSError if there is no such file, and ValueError for a card that contradicts itself. The engine's thread ends with
    `close()`, with the object, or with the process."""

    def __init__(
        self,
        model: str | Path | torch.nn.Module | Model,
        card: Card | None = None,
        labels: tuple[str, ...] = (),
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        further: Mapping[str, Local] = MappingProxyType({}),
        *,
        version: str = "",
        size: tuple[int, int] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        given = Given(size=size, mean=mean, std=std, labels=labels or None)
        self.model = model if isinstance(model, Model) else _loaded(model, version, card, given, device, dtype)
        self._further = {name: each.model for name, each in further.items()}
        self._described, self._limits = describe.described(self.model), Limits(device=device)
        self._engine = Engine(
            answer, name="local", fitting=self._limits.fitting, processors=torch.device(device).type == "cpu"
        )
        weakref.finalize(self, self._engine.end).atexit = False

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
        return Stream(self._explained(request), request.image)

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

    def synthesize(self, method: Message, **options: Unpack[SynthesizeOptions]) -> Stream[Synthesis]:
        """Synthesises an image: what would change the model's mind, or what it dreams of. `options` are those of
        `SynthesizeOptions`. Iterate over the stream for progress, or call its `result()`. Raises `LightwellError`."""
        return Stream(self._synthesized(synthesize_request(method, **options)))

    def sheet(
        self,
        images: ImageLike | Sequence[ImageLike],
        methods: Message | Sequence[Message],
        *,
        targets: int | Sequence[TargetLike] = (None,),
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
        return self._result(calls.sheet(Plan(images, methods, targets, "", sweep or {}, options)), progress)

    def estimate(self, method: Message, image: ImageLike | None = None, **options: Unpack[Options]) -> Estimate:
        """What a request of either kind would cost, and how it would be understood; nothing is run. `options` are those
        of `Options`. A method that does not apply to the model is told in the answer. Raises `LightwellError` where the
        request itself would, and TypeError for what is no method."""
        return Estimate.of(self._queried("Estimate", estimate_request(method, image, **options)))

    def filters(self, layer: str = "", picture: bool = False) -> Filters:
        """The weights of a convolution or a linear layer, float32 (`layer` unset: of the first convolution). With
        `picture` they are drawn where the model is. Raises `LightwellError`."""
        return Filters(self._queried("GetFilters", GetFiltersRequest(layer=layer, picture=picture)))

    def close(self) -> None:
        """Ends the thread of the engine."""
        self._engine.stop()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _queried(self, rpc: str, request: Any) -> Any:  # noqa: ANN401 - of any rpc
        """A query's last answer."""
        query, inner, further = queries()[rpc], type(request)(), dict[str, Model]()
        inner.CopyFrom(request)
        try:
            if (asked := query.asked(inner)) is not None:
                further = self._roles(asked)
                asked.CopyFrom(self._decoded(asked, further).request)
            given = {
                "request": inner,
                "model": self.model,
                "further": further,
                "limits": self._limits,
                "seconds": self._engine.seconds,
            }
            *_, response = query.answers(given)
            return query.complete(response, request)
        except NotApplicable as error:
            return query.not_applicable(error)
        except LightwellError as error:
            raise _sdk_error(error) from None

    def _begun(self, request: Request) -> Begun:
        running = self._submitted(request)
        return _Begun(running, lambda: self._engine.cancel(running.run))

    def _roles(self, request: Request) -> dict[str, Model]:
        """The further models of a request by the parameters that name them."""
        found = dict[str, Model]()
        for role, name in roles(request).items():
            if name not in self._further:
                path = f"{method_of(request).name}.{role}"
                raise InvalidArgument.at(path, f"there is no model {name!r}; {nearest(name, list(self._further))}")
            found[role] = self._further[name]
            check_role(request, role, name, found[role].card.kind)
        return found

    def _decoded(self, request: Request, further: Mapping[str, Model]) -> RequestImages:
        return decode_images(request, self._described, {role: model.id for role, model in further.items()})

    def _submitted(self, request: Request, watched: bool = False) -> _Running:
        try:
            further = self._roles(request)
            images = self._decoded(request, further)
            running = _Running(images, prepare(images.request, self.model, further), watched)
            if request.reproducible and not torch.are_deterministic_algorithms_enabled():
                running.run.exceptions.append(NOT_DETERMINISTIC)
            self._engine.submit(running.run)
        except LightwellError as error:
            raise _sdk_error(error) from None
        return running

    def _explained(self, request: ExplainRequest) -> Iterator[ExplainStreamResponse]:
        running = self._submitted(request, watched=True)
        try:
            for event in running:
                if isinstance(event, Passed):
                    yield ExplainStreamResponse(
                        progress=ExplainProgress(passes_done=event.done, passes_total=event.total)
                    )
                elif isinstance(event, Done):
                    yield ExplainStreamResponse(result=running.explanation(event))
        finally:
            self._engine.cancel(running.run)

    def _synthesized(self, request: SynthesizeRequest) -> Iterator[SynthesizeResponse]:
        running = self._submitted(request)
        try:
            for event in running:
                if isinstance(event, Frame):
                    yield SynthesizeResponse(
                        progress=running.images.progress(responses.progress(event, running.prepared))
                    )
                elif isinstance(event, Done):
                    yield SynthesizeResponse(result=running.synthesis(event))
        finally:
            self._engine.cancel(running.run)


class _Running:
    """A question at work; iterating gives its events."""

    def __init__(self, images: RequestImages, prepared: PreparedRequest, watched: bool) -> None:
        self.images, self.prepared = images, prepared
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.run: Run = prepared.run(self.events.put, watched=watched)

    def __iter__(self) -> Iterator[Event]:
        event: Event | None = None
        while not isinstance(event, Done):
            event = self.events.get()
            if isinstance(event, Failed):
                raise _sdk_error(event.error)
            yield event

    def explanation(self, done: Done) -> ExplainResponse:
        return self.images.explanation(responses.explanation(self.prepared, done.result, self.run))

    def synthesis(self, done: Done) -> SynthesizeResult:
        return self.images.synthesis(responses.synthesis(self.prepared, done.result, self.run))


@dataclass(frozen=True)
class _Begun:
    """A request that the engine is at work on."""

    running: _Running
    cancel: Callable[[], None]

    def answer(self) -> Explanation | Synthesis:
        *_, done = self.running
        assert isinstance(done, Done)
        if isinstance(self.running.images.asked, ExplainRequest):
            return Explanation(self.running.explanation(done), self.running.images.asked.image)
        return Synthesis(self.running.synthesis(done))


def _sdk_error(error: LightwellError) -> Exception:
    violations = tuple(error.violations) if isinstance(error, InvalidArgument) else ()
    return error_for(error.code, error.message, error.reason, violations)


def _loaded(
    model: str | Path | torch.nn.Module,
    version: str,
    card: Card | None,
    given: Given,
    device: str,
    dtype: torch.dtype,
) -> Model:
    try:
        if isinstance(model, torch.nn.Module):
            return _traced(model, card, given, device, dtype)
        return _read(located(Path(model), version).absolute(), card, given, device, dtype)
    except LightwellError as error:
        raise _sdk_error(error) from None


def _traced(net: torch.nn.Module, card: Card | None, given: Given, device: str, dtype: torch.dtype) -> Model:
    """A network, with the card that it declares itself if none is given. Raises `Refused`."""
    given = given if card is not None else given.over(declared(net))
    card = given.onto(card or Card())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        trace(net, tuple(example(card.sample(), 2)), path)
        labels = given.labels or labels_of(card, Path.cwd(), ANYWHERE)
        return load_file(path, card, labels, type(net).__name__, "1", device, dtype)


def _read(path: Path, card: Card | None, given: Given, device: str, dtype: torch.dtype) -> Model:
    """A file, with the card of its directory if none is given. Raises `Refused`."""
    directory = path.parent
    card = given.onto(card or read(directory, ANYWHERE)[0])
    labels = given.labels or labels_of(card, directory, ANYWHERE)
    listed = path.name in FILES and there(directory / "card.toml")
    name, version = (directory.parent.name, directory.name) if listed else (path.stem, "1")
    model = load_file(path, card, labels, name, version, device, dtype)
    verify(model.graph, card, directory, ANYWHERE)
    return model
