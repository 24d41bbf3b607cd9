"""Builds requests from the arguments of `explain` and `synthesize`. The field of the oneof is found by the parameter
object's type, so nothing here changes for a new method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message
from numpy.typing import NDArray

from lightwell import images
from lightwell.images import ImageLike
from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

TargetLike = (
    int | str | types.Target | types.Neuron | types.Channel | types.Contrast | types.Element | types.Direction | None
)
"""A class's index or label, a target message or one of its parts, or None for the class with the highest score."""

RequestT = TypeVar("RequestT", explain_pb2.ExplainRequest, synthesize_pb2.SynthesizeRequest)


class Options(TypedDict, total=False):
    """What every request may say. `model` and `version` (unset: the only one, the newest); `target` and `of` (score,
    probability, log_probability); `fit` (card, exact); `inputs`, the model's other inputs by name; `seed`;
    `reproducible`, the same bits whatever the load; `predictions`, how many come back."""

    model: str
    version: str
    target: TargetLike
    of: str
    fit: str
    inputs: Mapping[str, NDArray[Any]]
    seed: int
    reproducible: bool
    predictions: int


class ExplainOptions(Options, total=False):
    """And what an explanation may: `pictures` that the server draws (map, overlay)."""

    pictures: Sequence[str]


class SynthesizeOptions(Options, total=False):
    """And what a synthesis may: the `image` that it starts from; `previews`, how many pictures of the way;
    `image_tensor`, the result as floats too."""

    image: ImageLike | None
    previews: int
    image_tensor: bool


def explain_request(image: ImageLike, method: Message, **options: Unpack[ExplainOptions]) -> explain_pb2.ExplainRequest:
    """A request to explain an image."""
    request = _request(explain_pb2.ExplainRequest(), method, image, options)
    request.output.pictures.extend(
        explain_pb2.PictureKind.Value(f"PICTURE_KIND_{name.upper()}") for name in options.get("pictures", ())
    )
    return request


def synthesize_request(method: Message, **options: Unpack[SynthesizeOptions]) -> synthesize_pb2.SynthesizeRequest:
    """A request to synthesise an image."""
    request = _request(synthesize_pb2.SynthesizeRequest(), method, options.get("image"), options)
    request.output.previews = options.get("previews", 0)
    request.output.image_tensor = options.get("image_tensor", False)
    return request


def _request(request: RequestT, method: Message, image: ImageLike | None, options: Options) -> RequestT:
    """What both kinds of request have in common. Raises TypeError if the method is none of this request's."""
    _set_method(request, method)
    request.model, request.version = options.get("model", ""), options.get("version", "")
    request.target.CopyFrom(to_target(options.get("target"), options.get("of", "score")))
    request.seed, request.reproducible = options.get("seed", 0), options.get("reproducible", False)
    if image is not None:
        request.image.CopyFrom(images.to_message(image, options.get("fit", "card")))
    for name, array in options.get("inputs", {}).items():
        request.inputs[name].CopyFrom(images.to_tensor(array))
    if "predictions" in options:
        request.output.predictions = options["predictions"]
    return request


def to_target(target: TargetLike, of: str = "score") -> types.Target:
    """The target as a message; `of` is score, probability or log_probability."""
    if isinstance(target, types.Target):
        return target
    message = types.Target(of=types.Of.Value(f"OF_{of.upper()}"))
    if isinstance(target, int):
        message.class_index = target
    elif isinstance(target, str):
        message.label = target
    elif target is not None:
        getattr(message, type(target).__name__.lower()).CopyFrom(target)
    return message


def _set_method(request: RequestT, method: Message) -> None:
    fields: Any = request.DESCRIPTOR.oneofs_by_name["method"].fields
    for field in fields:
        if field.message_type is method.DESCRIPTOR:
            getattr(request, field.name).CopyFrom(method)
            return
    known = ", ".join(field.message_type.name for field in fields)
    raise TypeError(f"{type(method).__name__} is no method of this call; it takes {known}")
