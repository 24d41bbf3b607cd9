"""Prepares a request: checks its model, method, image, target and parameters, and fills in every default."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightwell.v1 import types_pb2 as types
from lightwell.v1.synthesize_pb2 import SynthesizeRequest
from lightwell_server.catalog import Method, Request, method_of
from lightwell_server.codec import images, tensors
from lightwell_server.codec.parameters import fill_parameters, read_parameters
from lightwell_server.codec.targets import read_target
from lightwell_server.contract import Ask, Frame, Step, Target, with_clean_pass
from lightwell_server.engine.run import Event, Run
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.models.graph import Graph
from lightwell_server.models.store import Model


@dataclass
class PreparedRequest:
    """A checked request. `image` [1, 3, H, W] in [0, 1] is the method's input, None if it takes none. `fitted` is the
    same image as the model would see it. `further` are other models by their roles."""

    request: Request
    model: Model
    method: Method
    target: Target
    parameters: Mapping[str, Any]
    image: Tensor | None = None
    fitted: Tensor | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    further: Mapping[str, Model] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the method's input; without an image those of the model's input."""
        return self.model.facts.size if self.image is None else (self.image.shape[2], self.image.shape[3])

    def steps(self) -> Generator[Step, Any, Any]:
        """The method's generator. It also records the values of the clean image."""
        facts, further = self.model.facts, {role: model.facts for role, model in self.further.items()}
        steps = self.method.start(self.image, self.target, facts, self.request.seed, self.parameters, further)
        wanted = self.request.output.HasField("predictions") and self.request.output.predictions > 0
        return with_clean_pass(steps, self.image, self.target, self.fitted, wanted)

    def graph(self, ask: Ask) -> Graph:
        """The graph of the model that an Ask names."""
        return self._models[ask.model]

    @property
    def _models(self) -> dict[str | None, Graph]:
        return {None: self.model.graph} | {role: model.graph for role, model in self.further.items()}

    def run(
        self,
        deliver: Callable[[Event], None],
        deadline: float = math.inf,
        watched: bool = False,
        name: str = "",
        number: int = 0,
        caller: str = "",
    ) -> Run:
        """A run of the request, for the engine."""
        return Run(
            method=self.method.name,
            steps=self.steps(),
            models=self._models,
            deliver=lambda event: deliver(self._lean(event)),
            inputs=self.inputs,
            deadline=deadline,
            reproducible=self.request.reproducible,
            caller=caller,
            watched=watched,
            name=name,
            number=number,
        )

    def due(self, frame: Frame) -> bool:
        """Whether a frame is one of the evenly spaced ones whose pictures were requested."""
        previews = self.request.output.previews if isinstance(self.request, SynthesizeRequest) else 0
        return frame.step * previews // frame.steps > (frame.step - 1) * previews // frame.steps

    def _lean(self, event: Event) -> Event:
        """Removes the pictures of frames that were not requested, so that a slow reader does not accumulate them."""
        return replace(event, image=None) if isinstance(event, Frame) and not self.due(event) else event

    def predictions(self, own: int | None = None) -> int:
        """Most predictions to return: the request's number, else the method's `own`, else 5."""
        if self.request.output.HasField("predictions"):
            return self.request.output.predictions
        return 5 if own is None else own

    def resolved(self) -> Any:  # noqa: ANN401 - of the request's own type
        """The request with everything filled in and its images left out."""
        message: Any = type(self.request)()
        message.CopyFrom(self.request)
        message.image.ClearField(message.image.WhichOneof("source") or "encoded")
        message.model, message.version, message.seed = self.model.name, self.model.version, self.request.seed
        if not self.method.aimed:
            message.ClearField("target")
        parameters = getattr(message, self.method.name)
        parameters.Clear()
        parameters.SetInParent()
        fill_parameters(parameters, self.parameters)
        return message


def prepare(request: Request, model: Model, further: Mapping[str, Model] | None = None) -> PreparedRequest:
    """Checks a request and fills in its defaults; `further` are the models of other roles. Raises InvalidArgument,
    NotApplicable. Blocks: run it on another thread than the event loop's."""
    method = method_of(request)

    def picture(image: types.Image, path: str) -> Tensor:
        return _placed(_decoded(image, path, model).whole(), model)

    given = read_parameters(getattr(request, method.name), method.name, picture)
    prepared = PreparedRequest(
        request,
        model,
        method,
        read_target(request.target, model.facts, model.labels, method.aimed),
        method.parameters(model.facts, given, model.id),
        further=further or {},
    )
    prepared.inputs = _inputs(request, model)
    if method.needs.image != "none":
        _read_image(prepared)
    if prepared.image is not None and prepared.image.shape[2:] != model.facts.size and _layered(prepared):
        _resize(prepared, given)
    return prepared


def _read_image(prepared: PreparedRequest) -> None:
    """Fits the image to the model, or keeps its own size where the method or the request wants that."""
    model, request = prepared.model, prepared.request
    image = _decoded(request.image, "image", model)
    seen = image
    whole = prepared.method.needs.image == "full"
    if request.image.fit != types.FIT_EXACT or whole:
        seen, _ = image.fitted(model.card.fit)
    prepared.fitted = prepared.image = _placed(seen.whole(), model)
    if whole:
        prepared.image = _placed(image.whole(), model)
    if prepared.target.placed and prepared.image.shape[2:] != model.facts.size:
        kind = request.target.WhichOneof("target")
        raise InvalidArgument.at(f"target.{kind}", "places are those at the card's size; fit the image by the card")


def _decoded(image: types.Image, path: str, model: Model) -> images.Decoded:
    card = model.card.input
    channels = images.Channels(card.channels, card.drawn) if card.tensor else None
    return images.sent(image, path, channels=channels).decoded()


def _layered(prepared: PreparedRequest) -> bool:
    """Whether the request uses layers of the model at the size of the image."""
    named = prepared.request.target.WhichOneof("target") in ("channel", "direction")
    needs = prepared.method.needs
    return needs.image == "input" and (named or bool(needs.layers))


def _resize(prepared: PreparedRequest, given: Mapping[str, Any]) -> None:
    """Checks layer names again: layers have other shapes at another image size."""
    assert prepared.image is not None  # it has a size
    height, width = prepared.image.shape[2:]
    model = prepared.model = prepared.model.at((height, width))
    prepared.parameters = prepared.method.parameters(model.facts, given, model.id)
    prepared.target = read_target(prepared.request.target, model.facts, model.labels, prepared.method.aimed)


def _placed(rows: Tensor, model: Model) -> Tensor:
    """Rows on the model's device. Methods compute at least in single precision, whatever the model's dtype."""
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
        value = tensors.to_tensor(request.inputs[name], f"inputs[{name}]")
        if tuple(value.shape) != spec.shape:
            raise InvalidArgument.at(
                f"inputs[{name}]", f"has shape {list(value.shape)}; the model takes {list(spec.shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InvalidArgument.at(f"inputs[{name}]", "has values that are not finite")
        values[name] = value.to(model.graph.device, spec.dtype)
    return values
