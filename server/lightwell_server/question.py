"""A request, understood: its model, method, image, target and parameters, checked and with every default filled in."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightwell.v1 import types_pb2 as types
from lightwell.v1.explain_pb2 import PICTURE_KIND_UNSPECIFIED, ExplainRequest, PictureKind
from lightwell.v1.synthesize_pb2 import SynthesizeOutput, SynthesizeRequest
from lightwell_server import fields, wire
from lightwell_server.aim import target_of
from lightwell_server.ask import Ask, Frame, Step
from lightwell_server.catalog import Method, catalog
from lightwell_server.engine.job import Event, Job
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.limits import Limits
from lightwell_server.models.graph import Graph
from lightwell_server.models.store import Model
from lightwell_server.target import ChannelTarget, Target, observed

Request = ExplainRequest | SynthesizeRequest


@dataclass
class Question:
    """What a request asks. `image` [1, 3, H, W] in [0, 1] is what the method looks at, `fitted` what the model would
    see of it, `original` the image as it was sent, if it is drawn on; `held`, the bytes
    of all that it keeps of its pictures."""

    request: Request
    model: Model
    method: Method
    target: Target
    parameters: Mapping[str, Any]
    image: Tensor | None = None
    fitted: Tensor | None = None
    original: wire.Decoded | None = None
    placement: types.Placement | None = None
    held: int = 0
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    digests: list[types.ImageDigest] = field(default_factory=list)

    def steps(self) -> Generator[Step, Any, Any]:
        """The method at work, observed for what it shows of the clean image on the way."""
        steps = self.method.start(self.image, self.target, self.model.facts, self.request.seed, self.parameters)
        wanted = self.request.output.HasField("predictions") and self.predictions > 0
        return observed(steps, self.image, self.target, self.fitted if wanted else None)

    def graph(self, ask: Ask) -> Graph:
        """The model that an Ask is for."""
        return self._models[ask.model]

    @property
    def _models(self) -> dict[str | None, Graph]:
        return {None: self.model.graph}

    def job(
        self, deliver: Callable[[Event], None], deadline: float = math.inf, watched: bool = False, name: str = ""
    ) -> Job:
        """The request as work for an engine."""
        return Job(
            method=self.method.name,
            steps=self.steps(),
            models=self._models,
            deliver=lambda event: deliver(self._lean(event)),
            inputs=self.inputs,
            deadline=deadline,
            reproducible=self.request.reproducible,
            watched=watched,
            name=name,
        )

    def due(self, frame: Frame) -> bool:
        """Whether a frame is one of the evenly spaced ones whose pictures were asked for."""
        previews = self.request.output.previews if isinstance(self.request, SynthesizeRequest) else 0
        return frame.step * previews // frame.steps > (frame.step - 1) * previews // frame.steps

    def _lean(self, event: Event) -> Event:
        """Frames that nobody will look at lose their picture at once: a slow reader must not pile them up."""
        return replace(event, image=None) if isinstance(event, Frame) and not self.due(event) else event

    @property
    def predictions(self) -> int:
        """How many predictions shall come back, at most."""
        return self.request.output.predictions if self.request.output.HasField("predictions") else 5

    def resolved(self) -> Any:  # noqa: ANN401 - of the request's own type
        """The request with everything filled in and its images left out."""
        message: Any = type(self.request)()
        message.CopyFrom(self.request)
        message.image.ClearField(message.image.WhichOneof("source") or "encoded")
        message.model, message.version, message.seed = self.model.name, self.model.version, self.request.seed
        parameters = getattr(message, self.method.name)
        parameters.Clear()
        parameters.SetInParent()
        fields.fill(parameters, self.parameters)
        return message


def method_of(request: Request) -> Method:
    """The method that a request names. Raises InvalidArgument if it names none."""
    name = request.WhichOneof("method")
    if name is None:
        known = [f.name for f in request.DESCRIPTOR.oneofs_by_name["method"].fields]
        raise InvalidArgument.at("method", f"set one of {', '.join(known)}")
    return catalog()[name]


def understand(request: Request, model: Model, limits: Limits | None = None) -> Question:
    """Decodes the images and checks everything. Raises InvalidArgument, NotApplicable. Takes time: run it beside the
    event loop."""
    method, given = method_of(request), _Pictures((limits or Limits()).pixels)
    message = getattr(request, method.name)
    parameters = method.parameters(model.facts, fields.parameters(message, method.name, given.expect), model.id)
    _check_output(request)
    question = Question(request, model, method, target_of(request.target, model), parameters, digests=given.digests)
    question.inputs = _inputs(request, model)
    question.original = given.decode(request.image, "image")
    if given.expected:

        def picture(image: types.Image, path: str) -> Tensor:
            return _placed(given.decode(image, path).whole(), model)

        seen = fields.parameters(message, method.name, picture)
        question.parameters = method.parameters(model.facts, seen, model.id)
    _look(question)
    if question.image is not None:
        fitted = not (method.whole or given.expected)
        question.held = 12 * (math.prod(question.image.shape[2:]) if fitted else given.decoded)  # three floats a pixel
    if not (isinstance(request, ExplainRequest) and request.output.pictures):
        question.original = None  # nobody draws on it, and it would stay in memory for as long as the request waits
    return question


@dataclass
class _Pictures:
    """The images of one request: `pixels` are left for all that are not decoded yet. All else is checked before the
    first is decoded, for that is what costs."""

    pixels: int
    decoded: int = 0
    expected: bool = False
    digests: list[types.ImageDigest] = field(default_factory=list)

    def expect(self, image: types.Image, path: str) -> Tensor:
        """What stands for an image until it is decoded."""
        self.expected = True
        return torch.empty(0)

    def decode(self, image: types.Image, path: str) -> wire.Decoded:
        """Decodes an image. Raises InvalidArgument saying what to change."""
        decoded = wire.decode(image, path, self.pixels)
        self.pixels -= math.prod(decoded.size)
        self.decoded += math.prod(decoded.size)
        self.digests.append(types.ImageDigest(field=path, sha256=wire.digest(image)))
        return decoded


def _check_output(request: Request) -> None:
    """Raises InvalidArgument where the form of the answer is none."""
    output = request.output
    if not 0 <= output.predictions <= 1000:
        raise InvalidArgument.at("output.predictions", f"{output.predictions} is not within 0 to 1000")
    if output.dtype not in (types.DATA_TYPE_UNSPECIFIED, types.DATA_TYPE_FLOAT32, types.DATA_TYPE_FLOAT16):
        raise InvalidArgument.at("output.dtype", "results come as FLOAT32 or FLOAT16")
    if isinstance(output, SynthesizeOutput):
        if not 0 <= output.previews <= 1000:
            raise InvalidArgument.at("output.previews", f"{output.previews} is not within 0 to 1000")
        return
    for i, kind in enumerate(output.pictures):
        if kind not in PictureKind.values() or kind == PICTURE_KIND_UNSPECIFIED:
            raise InvalidArgument.at(f"output.pictures[{i}]", f"{kind} is no PictureKind")


def _look(question: Question) -> None:
    """Brings the image to what the method looks at, and to what the model sees."""
    model, image = question.model, question.original
    assert image is not None
    if question.request.image.fit == types.FIT_EXACT and not question.method.whole:
        rows, placement = image.exact(model.facts.size, model.facts.any_size)
    else:
        rows, placement = image.fitted(model.card.fit)
    question.fitted = question.image = _placed(rows, model)
    question.placement = placement
    if question.method.whole:
        question.image, question.placement = _placed(image.whole(), model), wire.placed(image.size)
    neuron = isinstance(question.target, ChannelTarget) and question.target.position is not None
    if neuron and question.image.shape[2:] != model.facts.size:
        raise InvalidArgument.at(
            "target.neuron", "rows and columns are those at the card's size; fit the image by the card"
        )


def _placed(rows: Tensor, model: Model) -> Tensor:
    """On the model's device; methods compute in single precision at least, whatever the model does."""
    return rows.to(model.graph.device, torch.promote_types(model.graph.dtype, torch.float32))


def _inputs(request: Request, model: Model) -> dict[str, Tensor]:
    specs = model.card.sample().inputs
    for name in {*specs, *request.inputs} - ({*specs} & {*request.inputs}):
        wrong = (
            "the model needs this input"
            if name in specs
            else f"the model has no such input; {nearest(name, list(specs))}"
        )
        raise InvalidArgument.at(f"inputs[{name}]", wrong)
    values = {}
    for name, spec in specs.items():
        value = wire.to_tensor(request.inputs[name], f"inputs[{name}]")
        if tuple(value.shape) != spec.shape:
            raise InvalidArgument.at(
                f"inputs[{name}]", f"has shape {list(value.shape)}; the model takes {list(spec.shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InvalidArgument.at(f"inputs[{name}]", "has values that are not finite")
        values[name] = value.to(model.graph.device, spec.dtype)
    return values
