"""Builds requests from the arguments of `explain` and `synthesize`. The field of the oneof is found by the parameter object's type, so nothing
here changes for a new method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from numpy.typing import NDArray

from lightwell import images
from lightwell.images import ImageLike
from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

TargetLike = int | str | types.Target | types.Neuron | types.Channel | types.Contrast | types.Element | types.Direction | None
"""A class's index or label, a target message or one of its parts, or None for the class with the highest score."""

RequestT = TypeVar("RequestT", explain_pb2.ExplainRequest, synthesize_pb2.SynthesizeRequest)


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


def build(
    request: RequestT,
    method: Message,
    image: ImageLike | None,
    target: TargetLike,
    of: str,
    fit: str,
    inputs: Mapping[str, NDArray[Any]] | None,
) -> RequestT:
    """Fills a request in place. Raises TypeError if the method is none of this request's."""
    fields: Any = request.DESCRIPTOR.oneofs_by_name["method"].fields
    for field in fields:
        if field.message_type is method.DESCRIPTOR:
            getattr(request, field.name).CopyFrom(method)
            break
    else:
        known = ", ".join(field.message_type.name for field in fields)
        raise TypeError(f"{type(method).__name__} is no method of this call; it takes {known}")
    if image is not None:
        request.image.CopyFrom(images.to_message(image, fit))
    request.target.CopyFrom(to_target(target, of))
    for name, array in (inputs or {}).items():
        request.inputs[name].CopyFrom(images.to_tensor(array))
    return request


def explain_request(
    image: ImageLike,
    method: Message,
    *,
    model: str = "",
    version: str = "",
    target: TargetLike = None,
    of: str = "score",
    fit: str = "card",
    inputs: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
    reproducible: bool = False,
    predictions: int | None = None,
    pictures: tuple[str, ...] = (),
) -> explain_pb2.ExplainRequest:
    """A request to explain an image."""
    request = explain_pb2.ExplainRequest(model=model, version=version, seed=seed, reproducible=reproducible)
    request.output.pictures.extend(explain_pb2.PictureKind.Value(f"PICTURE_KIND_{name.upper()}") for name in pictures)
    if predictions is not None:
        request.output.predictions = predictions
    return build(request, method, image, target, of, fit, inputs)


def synthesize_request(
    method: Message,
    *,
    image: ImageLike | None = None,
    model: str = "",
    version: str = "",
    target: TargetLike = None,
    of: str = "score",
    fit: str = "card",
    inputs: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
    reproducible: bool = False,
    predictions: int | None = None,
    previews: int = 0,
    image_tensor: bool = False,
) -> synthesize_pb2.SynthesizeRequest:
    """A request to synthesise an image."""
    request = synthesize_pb2.SynthesizeRequest(model=model, version=version, seed=seed, reproducible=reproducible)
    request.output.previews, request.output.image_tensor = previews, image_tensor
    if predictions is not None:
        request.output.predictions = predictions
    return build(request, method, image, target, of, fit, inputs)
