"""The pictures of a request in both directions: files are decoded and fitted before the device, and results are drawn
and encoded after it. Blocks: run it on another thread than the event loop's."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightwell.pictures import drawing
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell.v1 import types_pb2 as types
from lightwell.v1.models_pb2 import GetModelResponse, Interpolation
from lightwell_server.catalog import Method, Request, method_of
from lightwell_server.codec import images
from lightwell_server.codec.parameters import read_parameters
from lightwell_server.codec.pictures import MAX_PIXELS, Fit
from lightwell_server.errors import InvalidArgument, NotApplicable
from lightwell_server.requests.resolved import restore

CROPPED = 0.45
"""The share of the image that the crop may remove without a warning."""
_FLOAT = 4
"""Bytes of a pixel's channel."""
_SENT_ON, _DRAWN = 16, 16
"""Bytes per pixel while an 8-bit picture is converted to a message, and while one is drawn and encoded."""
_DRAWING = 4e-7
"""Seconds per pixel while it is drawn and encoded, as measured on one core of 2.5 GHz."""


@dataclass
class RequestImages:
    """One request's pictures. `asked` is the request as it was sent, `request` the same for a device: its images are
    pixels, its main image has the model's size. `size` (height, width) is that of the method's input. `held` is the
    bytes that it takes while it is in progress. `original` is the main image as it was sent, or None if there is none
    or nothing is drawn on it. An image that is no picture is drawn by its `bands`."""

    asked: Request
    request: Any
    size: tuple[int, int]
    placement: types.Placement
    bands: tuple[int, ...] = ()
    original: images.Decoded | None = None
    held: int = 0
    digests: list[types.ImageDigest] = field(default_factory=list)

    @property
    def drawing_seconds(self) -> float:
        """Predicted seconds of drawing, on one processor."""
        asked = self.asked
        count = len(set(asked.output.pictures)) if isinstance(asked, explain.ExplainRequest) else 1
        return _DRAWING * count * math.prod(self.original.size if self.original else self.size)

    def explanation(
        self, response: explain.ExplainResponse, stop: threading.Event | None = None
    ) -> explain.ExplainResponse:
        """A device's response, completed with pictures and metadata of the images; drawing ends early when `stop` is
        set."""
        self._complete(response)
        response.bands.extend(self.bands)
        self._draw(response, stop)
        return response

    def synthesis(
        self, result: synthesize.SynthesizeResult, stop: threading.Event | None = None
    ) -> synthesize.SynthesizeResult:
        """A device's result, completed, with pictures in the requested form; ends early when `stop` is set."""
        self._complete(result)
        if not self._pixels:
            result.png = _png(result.pixels, stop)
            result.ClearField("pixels")
            for picture in result.pictures:
                picture.png = _png(picture.pixels, stop)
                picture.ClearField("pixels")
        return result

    def progress(self, progress: synthesize.Progress, stop: threading.Event | None = None) -> synthesize.Progress:
        """A progress message, with its picture in the requested form; ends early when `stop` is set."""
        if progress.HasField("preview_pixels") and not self._pixels:
            progress.preview = _png(progress.preview_pixels, stop)
            progress.ClearField("preview_pixels")
        return progress

    @property
    def _pixels(self) -> bool:
        return isinstance(self.asked, synthesize.SynthesizeRequest) and self.asked.output.pixels

    def _complete(self, response: Any) -> None:  # noqa: ANN401 - of either kind
        restore(response.resolved, self.asked)
        response.provenance.images.extend(self.digests)
        response.placement.CopyFrom(self.placement)
        height, width = self.size
        place = self.placement
        lost = 1 - height * place.scale_y * width * place.scale_x / (place.height * place.width)
        if lost > CROPPED:
            response.warnings.add(
                code=types.WARNING_CODE_CROPPED,
                message=f"The model saw {1 - lost:.0%} of the image; the rest was cut off by the crop to a square.",
            )

    def _draw(self, response: explain.ExplainResponse, stop: threading.Event | None) -> None:
        """Draws the requested pictures. Adds a warning for those that the method does not have."""
        if not isinstance(self.asked, explain.ExplainRequest) or not self.asked.output.pictures:
            return
        original = self.original.picture() if self.original is not None else None
        known = drawing.kinds(response, original is not None)
        for number in dict.fromkeys(self.asked.output.pictures):
            kind = explain.PictureKind.Name(number).removeprefix("PICTURE_KIND_").lower()
            if kind in known:
                response.pictures.add(name=kind, png=images.png(drawing.draw(kind, response, original), stop))
                continue
            has = f"its pictures are {', '.join(known)}" if known else "it has no picture"
            response.warnings.add(
                code=types.WARNING_CODE_NO_PICTURE,
                message=f"No {kind} was drawn: {method_of(self.asked).name} has none; {has}.",
            )


def _png(pixels: types.Tensor, stop: threading.Event | None) -> bytes:
    return images.png(images.to_pixels(pixels), stop)


@dataclass(frozen=True)
class ImageHeaders:
    """A request of whose images only the headers have been read. `inner` is the request for a device, its images still
    encoded."""

    asked: Request
    inner: Any
    method: Method
    model: GetModelResponse
    channels: images.Channels | None
    images: list[images.Sent]

    @property
    def bytes(self) -> int:
        """Bytes of memory that the pictures take at most, until the answer is drawn. A method that takes the full image
        is sent it at its own size."""
        whole = _SENT_ON * self.images[0].pixels if self.method.needs.image == "full" else 0
        return max(sum(image.bytes for image in self.images) + whole, self._drawing)

    @property
    def _drawing(self) -> int:
        """Bytes that drawing on the original takes at most, one picture at a time."""
        return _DRAWN * self.images[0].pixels if self._drawn else 0

    @property
    def _drawn(self) -> bool:
        asked = isinstance(self.asked, explain.ExplainRequest) and bool(self.asked.output.pictures)
        return asked and self.method.needs.image != "none"

    @property
    def seconds(self) -> float:
        """Predicted seconds of decoding, on one processor."""
        return sum(image.seconds for image in self.images)

    def seen(self) -> RequestImages:
        """Decodes the images, once, and fits the main one to the model. Raises InvalidArgument saying what to
        change."""
        request, inner, model = self.asked, self.inner, self.model
        digests = [types.ImageDigest(field=image.path, sha256=images.digest(image.message)) for image in self.images]
        held = self._drawing
        decoded = [image.decoded() for image in self.images]
        original = decoded.pop(0) if self.method.needs.image != "none" else None
        others = self.images[len(self.images) - len(decoded) :]
        for image, pixels in zip(others, decoded, strict=True):
            image.message.CopyFrom(pixels.message())
        self.images.clear()  # file objects keep their decoders and decoded data
        size = model.card.height, model.card.width
        placement = images.placed(size)
        if original is not None:
            seen, placement = _fitted(original, request.image.fit, self.method, model)
            inner.image.CopyFrom(seen.message())
            if self.method.needs.image == "full":
                inner.image.fit = request.image.fit
            size = seen.size
            decoded.append(seen)
        count = self.channels.count if self.channels else 3
        return RequestImages(
            asked=request,
            request=inner,
            size=size,
            placement=placement,
            original=original if self._drawn else None,
            bands=self.channels.bands if self.channels else (),
            held=held + _FLOAT * count * sum(math.prod(pixels.size) for pixels in decoded),
            digests=digests,
        )


def read_headers(
    request: Request,
    model: GetModelResponse,
    max_pixels: int = MAX_PIXELS,
    stop: threading.Event | None = None,
    further: Mapping[str, str] | None = None,
) -> ImageHeaders:
    """Checks a request, and reads its images' headers. Decoding them ends early when `stop` is set. `further` maps
    parameters that name further models to their names and versions. Raises InvalidArgument saying what to change."""
    method = method_of(request)
    _check_output(request)
    inner: Any = type(request)()
    inner.CopyFrom(request)
    inner.model, inner.version = model.summary.name, model.summary.version
    for role, name in (further or {}).items():
        setattr(getattr(inner, method.name), role, name)
    if isinstance(inner, synthesize.SynthesizeRequest):
        inner.output.pixels = True
    else:
        inner.output.ClearField("pictures")
    _check_support(method.name, model)
    channels, found = _channels(model), list[images.Sent]()
    for path, image in _images(inner, method):
        found.append(images.sent(image, path, max_pixels, channels, stop))
        max_pixels -= found[-1].pixels
    return ImageHeaders(request, inner, method, model, channels, found)


def decode_images(request: Request, model: GetModelResponse, further: Mapping[str, str] | None = None) -> RequestImages:
    """Decodes the images of a request and fits the main one to a model. Raises InvalidArgument saying what to
    change."""
    return read_headers(request, model, further=further).seen()


def _check_support(method: str, model: GetModelResponse) -> None:
    """Raises NotApplicable if a method does not apply to a model."""
    for support in model.methods:
        if support.method == method and not support.applies:
            name = f"{model.summary.name}@{model.summary.version}"
            raise NotApplicable(f"{method} does not apply to {name}: {support.reason}", subject=f"{name}/{method}")


def _images(request: Any, method: Method) -> list[tuple[str, types.Image]]:  # noqa: ANN401 - of either kind
    """The main image and the images among the parameters, with their paths. Raises InvalidArgument for other bad
    parameters before anything is decoded, because decoding is expensive."""
    found = [("image", request.image)] if method.needs.image != "none" else []
    if not found and request.image.WhichOneof("source"):
        raise InvalidArgument.at("image", f"{method.name} looks at no image; leave it unset")

    def note(image: types.Image, path: str) -> Tensor:
        found.append((path, image))
        return torch.empty(0)

    method.check(read_parameters(getattr(request, method.name), method.name, note))
    return found


def _channels(model: GetModelResponse) -> images.Channels | None:
    """The channels of a model whose images are no colour pictures, else None."""
    return images.Channels(model.card.channels, tuple(model.card.bands)) if model.card.bands else None


def _check_output(request: Request) -> None:
    """Raises InvalidArgument if the output options are invalid."""
    output = request.output
    if not 0 <= output.predictions <= 1000:
        raise InvalidArgument.at("output.predictions", f"{output.predictions} is not within 0 to 1000")
    if output.dtype not in (types.DATA_TYPE_UNSPECIFIED, types.DATA_TYPE_FLOAT32, types.DATA_TYPE_FLOAT16):
        raise InvalidArgument.at("output.dtype", "results come as FLOAT32 or FLOAT16")
    if isinstance(output, synthesize.SynthesizeOutput):
        if not 0 <= output.previews <= 1000:
            raise InvalidArgument.at("output.previews", f"{output.previews} is not within 0 to 1000")
        return
    for i, kind in enumerate(output.pictures):
        if kind not in explain.PictureKind.values() or kind == explain.PICTURE_KIND_UNSPECIFIED:
            raise InvalidArgument.at(f"output.pictures[{i}]", f"{kind} is no PictureKind")


def _fitted(
    original: images.Decoded, fit: types.Fit.ValueType, method: Method, model: GetModelResponse
) -> tuple[images.Decoded, types.Placement]:
    """The method's input, and its placement in the image that was sent."""
    if method.needs.image != "full":
        if fit != types.FIT_EXACT:
            return original.fitted(fit_of(model))
        original.check_size((model.card.height, model.card.width), model.any_size)
    return original, images.placed(original.size)


def fit_of(model: GetModelResponse) -> Fit:
    """The resize and crop of a model's card."""
    card = model.card
    names = {number: name.removeprefix("INTERPOLATION_").lower() for name, number in Interpolation.items()}
    return Fit((card.height, card.width), card.resize, names[card.interpolation], card.antialias)  # type: ignore[arg-type]
