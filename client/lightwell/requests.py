"""Builds requests from the arguments of `explain` and `synthesize`. The type of the method's message determines the
field of the oneof, so a new method needs no change here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
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
"""The default number of requests of one call that are in progress at a time."""

RequestT = TypeVar("RequestT", explain_pb2.ExplainRequest, synthesize_pb2.SynthesizeRequest)


class Options(TypedDict, total=False):
    """Options of every request: `model` and `version` (unset: the only one, the newest); `target` and `readout` (score,
    probability, log_probability); `fit` (card, exact); `inputs`, the model's other inputs by name; `seed`;
    `reproducible`, for the same bits at every load; `predictions`, the number of classes returned; `dtype` of the
    tensors (float32, float16)."""

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
    """Further options of an explanation: `pictures` that the server draws (map, overlay, sheet, cutout)."""

    pictures: Sequence[str]


class SynthesizeOptions(Options, total=False):
    """Further options of a synthesis: the `image` that it starts from; `previews`, the number of intermediate pictures;
    `image_tensor`, the result as floats too; `pixels`, all pictures as pixels and not as PNG, which saves the server
    the time of encoding."""

    image: ImageLike | None
    previews: int
    image_tensor: bool
    pixels: bool


_KNOWN = ExplainOptions.__annotations__.keys() | SynthesizeOptions.__annotations__.keys()


def explain_request(
    image: ImageLike | None, method: Message, **options: Unpack[ExplainOptions]
) -> explain_pb2.ExplainRequest:
    """A request to explain an image; None for methods without an image."""
    request = _request(explain_pb2.ExplainRequest(), method, image, options)
    request.output.pictures.extend(
        explain_pb2.PictureKind.Value(f"PICTURE_KIND_{name.upper()}") for name in options.get("pictures", ())
    )
    return request


def top_request(
    image: ImageLike | None, method: Message, targets: int, **options: Unpack[ExplainOptions]
) -> explain_pb2.ExplainRequest:
    """The first request of those that explain the `targets` most probable classes. It explains the first class and asks
    for the others. Raises ValueError if `targets` is less than 1, or if a target is given."""
    if targets < 1:
        raise ValueError(f"targets is {targets}; it must be 1 or more")
    if options.get("target") is not None:
        raise ValueError("targets asks for the classes of the highest scores; leave target out")
    options["predictions"] = max(targets, options.get("predictions", 0))
    return explain_request(image, method, **options)


def others(
    first: Explanation, targets: int, method: Message, **options: Unpack[ExplainOptions]
) -> Iterator[Callable[[], explain_pb2.ExplainRequest]]:
    """What makes the requests that follow the response to `top_request`, for the same image and version of the model.
    Raises ValueError if the method has no target."""
    if not first.message.HasField("target"):
        raise ValueError(f"{first.method} looks at no target; leave targets out")
    options["model"], options["version"] = first.provenance.model, first.provenance.version
    options["predictions"] = max(targets, options.get("predictions", 0))
    classes = [prediction.class_index for prediction in first.predictions]
    rest = [index for index in classes if index != first.target.target.class_index]
    for options["target"] in rest[: targets - 1]:
        yield partial(explain_request, first.source, method, **options)


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
    """A request to estimate the cost of a method. Raises TypeError if it is not a method."""
    if _field(explain_pb2.ExplainRequest(), method) is not None:
        return estimate_pb2.EstimateRequest(explain=_request(explain_pb2.ExplainRequest(), method, image, options))
    return estimate_pb2.EstimateRequest(synthesize=_request(synthesize_pb2.SynthesizeRequest(), method, image, options))


def _request(request: RequestT, method: Message, image: ImageLike | None, options: Options) -> RequestT:
    """The fields that both kinds of request have in common. Raises TypeError for an unknown option, or a method of the
    other kind."""
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
    """A method's name, as on the command line. Raises TypeError if it is not a method."""
    for request in (explain_pb2.ExplainRequest(), synthesize_pb2.SynthesizeRequest()):
        if (name := _field(request, method)) is not None:
            return name
    raise TypeError(f"{type(method).__name__} is no method")


def explains(method: Message) -> bool:
    """Whether a method belongs to `explain`, not to `synthesize`."""
    return _field(explain_pb2.ExplainRequest(), method) is not None


def to_target(target: TargetLike, readout: str = "score") -> types.Target:
    """The target as a message; `readout` is score, probability or log_probability."""
    if isinstance(target, types.Target):
        return target
    message = types.Target(readout=types.Readout.Value(f"READOUT_{readout.upper()}"))
    if isinstance(target, SupportsIndex):  # NumPy's integers, too
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
    """The field of the request's oneof for the method, or None."""
    return next((field.name for field in _methods(request) if field.message_type is method.DESCRIPTOR), None)


def _methods(request: Message) -> Any:  # noqa: ANN401 - descriptors are typed loosely
    return request.DESCRIPTOR.oneofs_by_name["method"].fields
