"""Builds requests from the arguments of `explain` and `synthesize`. The field of the oneof is found by the parameter
object's type, so nothing here changes for a new method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message
from numpy.typing import NDArray

from lightwell import images
from lightwell.images import ImageLike
from lightwell.results import Explanation
from lightwell.v1 import estimate_pb2, explain_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

TargetLike = (
    int | str | types.Target | types.Neuron | types.Channel | types.Contrast | types.Element | types.Direction | None
)
"""A class's index or label, a target message or one of its parts, or None for the class with the highest score."""

CONCURRENCY = 32
"""How many requests of one call are in progress at a time, if the caller does not say."""

RequestT = TypeVar("RequestT", explain_pb2.ExplainRequest, synthesize_pb2.SynthesizeRequest)


class Options(TypedDict, total=False):
    """What every request may say. `model` and `version` (unset: the only one, the newest); `target` and `readout`
    (score, probability, log_probability); `fit` (card, exact); `inputs`, the model's other inputs by name; `seed`;
    `reproducible`, the same bits whatever the load; `predictions`, how many come back; `dtype` of the tensors (float32,
    float16)."""

    model: str
    version: str
    target: TargetLike
    readout: str
    fit: str
    inputs: Mapping[str, NDArray[Any]]
    seed: int
    reproducible: bool
    predictions: int
    dtype: str


class ExplainOptions(Options, total=False):
    """And what an explanation may: `pictures` that the server draws (map, overlay, sheet, cutout)."""

    pictures: Sequence[str]


class SynthesizeOptions(Options, total=False):
    """And what a synthesis may: the `image` that it starts from; `previews`, how many pictures of the way;
    `image_tensor`, the result as floats too; `pixels`, all pictures as they are and not as PNG, which spares the server
    the time of encoding them."""

    image: ImageLike | None
    previews: int
    image_tensor: bool
    pixels: bool


_KNOWN = ExplainOptions.__annotations__.keys() | SynthesizeOptions.__annotations__.keys()


def explain_request(
    image: ImageLike | None, method: Message, **options: Unpack[ExplainOptions]
) -> explain_pb2.ExplainRequest:
    """A request to explain an image; without one for methods that look at none."""
    request = _request(explain_pb2.ExplainRequest(), method, image, options)
    request.output.pictures.extend(
        explain_pb2.PictureKind.Value(f"PICTURE_KIND_{name.upper()}") for name in options.get("pictures", ())
    )
    return request


def top_request(
    image: ImageLike | None, method: Message, targets: int, **options: Unpack[ExplainOptions]
) -> explain_pb2.ExplainRequest:
    """Of the requests that explain the `targets` classes of the highest scores the first: it explains the highest, and
    asks which are the others. Raises ValueError for less than one class, and if a target is given."""
    if targets < 1:
        raise ValueError(f"targets is {targets}; it must be 1 or more")
    if options.get("target") is not None:
        raise ValueError("targets asks for the classes of the highest scores; leave target out")
    options["predictions"] = max(targets, options.get("predictions", 0))
    return explain_request(image, method, **options)


def others(
    first: Explanation, targets: int, method: Message, **options: Unpack[ExplainOptions]
) -> Iterator[explain_pb2.ExplainRequest]:
    """The requests that follow on the answer to `top_request`: of the same image and the same version of the model.
    Raises ValueError if the method looks at no target."""
    if not first.message.HasField("target"):
        raise ValueError(f"{first.method} looks at no target; leave targets out")
    options["model"], options["version"] = first.provenance.model, first.provenance.version
    options["predictions"] = max(targets, options.get("predictions", 0))
    classes = [prediction.class_index for prediction in first.predictions]
    rest = [index for index in classes if index != first.target.target.class_index]
    for options["target"] in rest[: targets - 1]:
        yield explain_request(first.source, method, **options)


def synthesize_request(method: Message, **options: Unpack[SynthesizeOptions]) -> synthesize_pb2.SynthesizeRequest:
    """A request to synthesise an image."""
    request = _request(synthesize_pb2.SynthesizeRequest(), method, options.get("image"), options)
    request.output.previews = options.get("previews", 0)
    request.output.image_tensor = options.get("image_tensor", False)
    request.output.pixels = options.get("pixels", False)
    return request


def estimate_request(
    method: Message, image: ImageLike | None, **options: Unpack[Options]
) -> estimate_pb2.EstimateRequest:
    """A request to tell what the method would cost, of the kind that the method belongs to. Raises TypeError if it is
    no method."""
    if _field(explain_pb2.ExplainRequest(), method) is not None:
        return estimate_pb2.EstimateRequest(explain=_request(explain_pb2.ExplainRequest(), method, image, options))
    return estimate_pb2.EstimateRequest(synthesize=_request(synthesize_pb2.SynthesizeRequest(), method, image, options))


def _request(request: RequestT, method: Message, image: ImageLike | None, options: Options) -> RequestT:
    """What both kinds of request have in common. Raises TypeError if the method is none of this request's."""
    _set_method(request, method)
    if unknown := set(options) - _KNOWN:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(sorted(_KNOWN))}")
    request.model, request.version = options.get("model", ""), options.get("version", "")
    request.target.CopyFrom(to_target(options.get("target"), options.get("readout", "score")))
    request.seed, request.reproducible = options.get("seed", 0), options.get("reproducible", False)
    if image is not None:
        request.image.CopyFrom(images.to_message(image, options.get("fit", "card")))
    for name, array in options.get("inputs", {}).items():
        request.inputs[name].CopyFrom(images.to_tensor(array))
    if "predictions" in options:
        request.output.predictions = options["predictions"]
    if "dtype" in options:
        request.output.dtype = types.DataType.Value(f"DATA_TYPE_{options['dtype'].upper()}")
    return request


def name_of(method: Message) -> str:
    """A method's name, as a command line has it. Raises TypeError if it is none."""
    for request in (explain_pb2.ExplainRequest(), synthesize_pb2.SynthesizeRequest()):
        if (name := _field(request, method)) is not None:
            return name
    raise TypeError(f"{type(method).__name__} is no method")


def explains(method: Message) -> bool:
    """Whether a method is one of `explain`, not of `synthesize`."""
    return _field(explain_pb2.ExplainRequest(), method) is not None


def to_target(target: TargetLike, readout: str = "score") -> types.Target:
    """The target as a message; `readout` is score, probability or log_probability."""
    if isinstance(target, types.Target):
        return target
    message = types.Target(readout=types.Readout.Value(f"READOUT_{readout.upper()}"))
    if isinstance(target, SupportsIndex):  # NumPy's whole numbers, too
        message.class_index = target.__index__()
    elif isinstance(target, str):
        message.label = target
    elif target is not None:
        getattr(message, type(target).__name__.lower()).CopyFrom(target)
    return message


def _set_method(request: RequestT, method: Message) -> None:
    name = _field(request, method)
    if name is None:
        known = ", ".join(field.message_type.name for field in _methods(request))
        raise TypeError(f"{type(method).__name__} is no method of this call; it takes {known}")
    getattr(request, name).CopyFrom(method)


def _field(request: Message, method: Message) -> str | None:
    """The field of the request's oneof that takes the method; None if it is none of this request's."""
    return next((field.name for field in _methods(request) if field.message_type is method.DESCRIPTOR), None)


def _methods(request: Message) -> Any:  # noqa: ANN401 - descriptors are typed loosely
    return request.DESCRIPTOR.oneofs_by_name["method"].fields
