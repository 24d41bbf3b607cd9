"""A request, understood: its model, method, image, target and parameters, checked and with every default filled in."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightwell.v1 import types_pb2 as types
from lightwell.v1.explain_pb2 import ExplainRequest
from lightwell.v1.synthesize_pb2 import SynthesizeRequest
from torch import Tensor

from lightwell_server import fields, wire
from lightwell_server.ask import Facts, Step
from lightwell_server.catalog import Method, catalog
from lightwell_server.engine.job import Event, Job
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.models.store import Model
from lightwell_server.target import ChannelTarget, ClassTarget, ContrastTarget, Of, Target, observed

Request = ExplainRequest | SynthesizeRequest

_OF: dict[int, Of] = {
    types.OF_UNSPECIFIED: "score",
    types.OF_SCORE: "score",
    types.OF_PROBABILITY: "probability",
    types.OF_LOG_PROBABILITY: "log_probability",
}


@dataclass
class Question:
    """What a request asks. `image` is [1, 3, H, W] in [0, 1] or None; `original` the image as it was sent."""

    request: Request
    model: Model
    method: Method
    target: Target
    parameters: Mapping[str, Any]
    image: Tensor | None = None
    original: wire.Decoded | None = None
    placement: types.Placement | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    digests: list[types.ImageDigest] = field(default_factory=list)

    def steps(self) -> Generator[Step, Any, Any]:
        """The method at work, observed for what it shows of the clean image on the way."""
        steps = self.method.start(self.image, self.target, self.model.facts, self.request.seed, self.parameters)
        return observed(
            steps, self.image, self.target, self.predictions > 0 and self.request.output.HasField("predictions")
        )

    def job(self, deliver: Callable[[Event], None], deadline: float = math.inf) -> Job:
        """The request as work for an engine."""
        return Job(
            method=self.method.name,
            steps=self.steps(),
            models={None: self.model.graph},
            deliver=deliver,
            inputs=self.inputs,
            deadline=deadline,
            reproducible=self.request.reproducible,
        )

    @property
    def predictions(self) -> int:
        """How many predictions shall come back, at most."""
        return self.request.output.predictions if self.request.output.HasField("predictions") else 5

    def resolved(self) -> Any:  # noqa: ANN401 - of the request's own type
        """The request with everything filled in and its images left out."""
        message: Any = type(self.request)()
        message.CopyFrom(self.request)
        message.ClearField("image")
        message.model, message.version, message.seed = self.model.name, self.model.version, self.request.seed
        parameters = getattr(message, self.method.name)
        parameters.Clear()
        parameters.SetInParent()
        fields.fill(parameters, self.parameters)
        if isinstance(self.target, ClassTarget) and self.target.index is not None:
            message.target.class_index = self.target.index
        return message


def method_of(request: Request) -> Method:
    """The method that a request names. Raises InvalidArgument if it names none."""
    name = request.WhichOneof("method")
    if name is None:
        known = [f.name for f in request.DESCRIPTOR.oneofs_by_name["method"].fields]
        raise InvalidArgument.at("method", f"set one of {', '.join(known)}")
    return catalog()[name]


def understand(request: Request, model: Model, max_pixels: int = wire.MAX_PIXELS) -> Question:
    """Decodes the images and checks everything. Raises InvalidArgument, NotApplicable. Takes time: run it beside the
    event loop."""
    method = method_of(request)
    digests: list[types.ImageDigest] = []

    def picture(image: types.Image, path: str) -> Tensor:
        digests.append(types.ImageDigest(field=path, sha256=wire.digest(image)))
        return _placed(wire.decode(image, path, max_pixels).whole(), model)

    given = fields.parameters(getattr(request, method.name), method.name, picture)
    parameters = method.parameters(model.facts, given, model.id)
    if request.output.predictions < 0 or request.output.predictions > 1000:
        raise InvalidArgument.at("output.predictions", f"{request.output.predictions} is not within 0 to 1000")
    if request.output.dtype not in (types.DATA_TYPE_UNSPECIFIED, types.DATA_TYPE_FLOAT32, types.DATA_TYPE_FLOAT16):
        raise InvalidArgument.at("output.dtype", "results come as FLOAT32 or FLOAT16")
    question = Question(request, model, method, target_of(request.target, model), parameters, digests=digests)
    question.inputs = _inputs(request, model)
    question.original = wire.decode(request.image, "image", max_pixels)
    digests.insert(0, types.ImageDigest(field="image", sha256=wire.digest(request.image)))
    question.image, question.placement = _looked_at(question)
    return question


def _looked_at(question: Question) -> tuple[Tensor, types.Placement]:
    """The image as the method looks at it."""
    model, image = question.model, question.original
    assert image is not None
    if question.method.whole:
        rows, placement = image.whole(), wire.placed(image.size)
    elif question.request.image.fit == types.FIT_EXACT:
        rows, placement = image.exact(model.facts.size, model.facts.any_size)
    else:
        rows, placement = image.fitted(model.facts.size, model.card.resize)
    return _placed(rows, model), placement


def _placed(rows: Tensor, model: Model) -> Tensor:
    return rows.to(model.graph.device, model.graph.dtype)


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
        values[name] = value.to(model.graph.device, spec.dtype)
    return values


def target_of(message: types.Target, model: Model) -> Target:
    """The target of a request. Raises InvalidArgument with what there is to choose from."""
    kind = message.WhichOneof("target")
    if message.of not in _OF:
        raise InvalidArgument.at("target.of", f"{message.of} is no reading of a class")
    if kind in (None, "class_index", "label", "contrast"):
        return _class_target(message, kind, model)
    if kind == "neuron":
        return _neuron(message.neuron, model.facts)
    if kind == "channel":
        _activations(message.channel.layer, message.channel.channel, "target.channel", model.facts)
        return ChannelTarget(message.channel.layer, message.channel.channel)
    raise InvalidArgument.at(f"target.{kind}", "this version explains classes, contrasts, neurons and channels")


def _class_target(message: types.Target, kind: str | None, model: Model) -> Target:
    of = _OF[message.of]
    if kind == "label":
        return ClassTarget(label_index(message.label, model.labels), of)
    if kind == "contrast":
        index, against = (
            _class(i, "target.contrast", model.facts) for i in (message.contrast.class_index, message.contrast.against)
        )
        return ContrastTarget(index, against, of)
    return ClassTarget(_class(message.class_index, "target.class_index", model.facts) if kind else None, of)


def _class(index: int, path: str, facts: Facts) -> int:
    if not 0 <= index < facts.classes:
        raise InvalidArgument.at(
            path, f"{index} is no class; the model has {facts.classes}, from 0 to {facts.classes - 1}"
        )
    return index


def label_index(label: str, labels: tuple[str, ...]) -> int:
    """The class of that name, or of one part of its comma-separated name. Raises InvalidArgument if there are none or
    several."""
    if not labels:
        raise InvalidArgument.at("target.label", "the model's card has no labels; name the class by its index")
    wanted = label.strip().casefold()
    whole = [i for i, name in enumerate(labels) if name.casefold() == wanted]
    found = whole or [
        i for i, name in enumerate(labels) if wanted in (part.strip().casefold() for part in name.split(","))
    ]
    if len(found) > 1:
        raise InvalidArgument.at(
            "target.label", f"{label!r} names several classes, {', '.join(map(str, found))}; name one by its index"
        )
    if not found:
        raise InvalidArgument.at(
            "target.label", f"there is no class {label!r}; {nearest(wanted, [name.casefold() for name in labels])}"
        )
    return found[0]


def _neuron(neuron: types.Neuron, facts: Facts) -> ChannelTarget:
    shape = _activations(neuron.layer, neuron.channel, "target.neuron", facts)
    if len(shape) == 1:
        return ChannelTarget(neuron.layer, neuron.channel)
    row = neuron.row if neuron.HasField("row") else shape[1] // 2
    column = neuron.column if neuron.HasField("column") else shape[2] // 2
    for name, place, size in (("row", row, shape[1]), ("column", column, shape[2])):
        if not 0 <= place < size:
            raise InvalidArgument.at(f"target.neuron.{name}", f"{place} is not within 0 to {size - 1}")
    return ChannelTarget(neuron.layer, neuron.channel, (row, column))


def _activations(name: str, channel: int, path: str, facts: Facts) -> tuple[int, ...]:
    layer = facts.layer(name)
    if layer is None:
        known = [layer.name for layer in facts.layers]
        raise InvalidArgument.at(f"{path}.layer", f"the model has no layer {name!r}; {nearest(name, known)}")
    if len(layer.shape) not in (1, 3):
        raise InvalidArgument.at(f"{path}.layer", f"{name} has no channels; its output is {list(layer.shape)}")
    if not 0 <= channel < layer.shape[0]:
        raise InvalidArgument.at(f"{path}.channel", f"{channel} is not within 0 to {layer.shape[0] - 1}")
    return layer.shape
