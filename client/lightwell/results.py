"""What comes back, for people: arrays, pictures, and the message it all came from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from lightwell import images
from lightwell.pictures import drawing, render
from lightwell.pictures.heatmap import Floats, enlarged
from lightwell.v1 import estimate_pb2, explain_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

_AS_NUMBERS = {types.VIEW_VECTOR, types.VIEW_POINTS, types.VIEW_TABLE}


class _Shared:
    """What both kinds of result tell."""

    message: Any

    @property
    def target(self) -> types.ExplainedTarget:
        """The target, with its score and probability."""
        return self.message.target  # type: ignore[no-any-return]

    @property
    def warnings(self) -> list[str]:
        """Doubts about this result, a sentence each."""
        return [warning.message for warning in self.message.warnings]

    @property
    def provenance(self) -> types.Provenance:
        """Where the result comes from."""
        return self.message.provenance  # type: ignore[no-any-return]

    @cached_property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The method's other tensors by name."""
        return {item.name: images.to_array(item.tensor) for item in self.message.tensors}

    @property
    def measures(self) -> dict[str, float]:
        """The method's numbers by name."""
        return {item.name: item.value for item in self.message.measures}


@dataclass(eq=False)
class Explanation(_Shared):
    """An answer to `explain`. In a notebook it shows its overlay."""

    message: explain_pb2.ExplainResponse
    source: types.Image

    @cached_property
    def values(self) -> Floats:
        """The map on its native grid, float32 [h, w]. Raises ValueError for methods that have none."""
        if not self.message.HasField("map"):
            raise ValueError(f"{self.method} has no map; it has: {', '.join(self.tensors) or 'predictions'}")
        return images.to_array(self.message.map.values).astype("float32")

    @cached_property
    def map(self) -> Floats:
        """The map at the model's input size, float32 [H, W]. Raises ValueError for methods that have none."""
        return enlarged(self.values, self.message.map)

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.message.resolved.WhichOneof("method"))

    @property
    def predictions(self) -> list[types.Prediction]:
        """The most probable classes, highest score first."""
        return list(self.message.predictions)

    @cached_property
    def original(self) -> Pil.Image:
        """The image that was sent; of a tensor the bands by which the model's card has it drawn."""
        return images.to_picture(self.source, self.message.bands)

    def picture(self) -> Pil.Image:
        """What was found, without the image: the map at the model's input size; the sheet of activations; the object
        that a segmentation cut out. Raises ValueError for methods that have no picture."""
        return self._drawn("sheet", "cutout", "map")

    def overlay(self) -> Pil.Image:
        """The map over the original image; of a segmentation the object in it, all else dark and grey. Raises
        ValueError for methods without a map."""
        return self._drawn("overlay")

    def cutout(self) -> Pil.Image:
        """The object that a segmentation found: RGBA of the original image's size, all else transparent. Raises
        ValueError for other methods."""
        return self._drawn("cutout")

    def shown(self) -> Pil.Image:
        """The picture that says most, which is saved and which a notebook shows: the overlay, the sheet or the cut-out.
        Raises ValueError for methods that have no picture."""
        return self._drawn("sheet", "cutout", "overlay", "map")

    @property
    def ending(self) -> str | None:
        """Of a file that holds what was found: ".png" of a picture; of methods without one ".npy", if they have a
        vector, points or a table; else None."""
        if self._kinds:
            return ".png"
        return None if self._numbers is None else ".npy"

    @property
    def _numbers(self) -> str | None:
        """The tensor that is shown as numbers."""
        return next((item.name for item in self.message.tensors if item.view in _AS_NUMBERS), None)

    def save(self, path: str | Path) -> None:
        """Writes the overlay, the sheet or the cut-out; the path's ending says the format. Where that knows no
        transparency, a cut-out lies on white. With .npy the vector, the points or the table is written, float32. Raises
        ValueError for methods that have none of it."""
        if Path(path).suffix.lower() == ".npy":
            if self._numbers is None:
                raise ValueError(f"{self.method} has no vector, points or table to write; save its picture")
            np.save(path, self.tensors[self._numbers])
            return
        opaque = Path(path).suffix.lower() in (".jpg", ".jpeg")
        (render.on_white(self.shown()) if opaque else self.shown()).save(path)

    def _drawn(self, *kinds: str) -> Pil.Image:
        """The first of the kinds that there is."""
        known = self._kinds
        original = self.original if self.source.WhichOneof("source") else None
        return drawing.draw(next((kind for kind in kinds if kind in known), kinds[-1]), self.message, original)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return drawing.kinds(self.message, bool(self.source.WhichOneof("source")))

    def _repr_png_(self) -> bytes | None:
        return images.png(self.shown()) if self._kinds else None

    def __repr__(self) -> str:
        shapes = {"map": self.values.shape} if self.message.HasField("map") else {}
        shapes |= {name: values.shape for name, values in self.tensors.items()}
        found = [f"{name} {shape}" for name, shape in shapes.items()] or listed(self.predictions)
        aimed = f" of {named(self.target)}" if self.message.HasField("target") else ""
        return f"<Explanation {self.method}{aimed}, {', '.join(found)}>"


@dataclass(frozen=True)
class Progress:
    """How far a stream is. Of a synthesis: the steps done and planned, the `objective`, and an `image` where a preview
    was due. Of an explanation: the passes through the model that are done and those that the method asked for,
    counted anew each time it asks."""

    step: int
    steps: int
    objective: float | None = None
    image: Pil.Image | None = None

    @classmethod
    def of(cls, message: synthesize_pb2.Progress | explain_pb2.ExplainProgress) -> Progress:
        """From the stream's message."""
        if isinstance(message, explain_pb2.ExplainProgress):
            return cls(message.passes_done, message.passes_total)
        objective = message.objective if message.HasField("objective") else None
        due = message.preview or message.HasField("preview_pixels")
        image = _opened(message.preview, message.preview_pixels) if due else None
        return cls(message.step, message.steps, objective, image)


@dataclass(eq=False)
class Synthesis(_Shared):
    """The result of `synthesize`. In a notebook it shows its image."""

    message: synthesize_pb2.SynthesizeResult

    @cached_property
    def image(self) -> Pil.Image:
        """The synthesised image."""
        return _opened(self.message.png, self.message.pixels)

    @property
    def succeeded(self) -> bool | None:
        """Whether the method reached its aim; None for methods without a verdict."""
        return self.message.succeeded if self.message.HasField("succeeded") else None

    @cached_property
    def pictures(self) -> dict[str, Pil.Image]:
        """The method's other pictures by name."""
        return {item.name: _opened(item.png, item.pixels) for item in self.message.pictures}

    @property
    def before(self) -> list[types.Prediction]:
        """The most probable classes of the image that was sent."""
        return list(self.message.predictions_before)

    @property
    def after(self) -> list[types.Prediction]:
        """The most probable classes of the result."""
        return list(self.message.predictions_after)

    def save(self, path: str | Path) -> None:
        """Writes the image. As PNG it is, pixel for pixel, what the verdict speaks of."""
        if Path(path).suffix.lower() == ".png":
            Path(path).write_bytes(self._repr_png_())
        else:
            self.image.save(path)

    def _repr_png_(self) -> bytes:
        return self.message.png or images.png(self.image)

    def __repr__(self) -> str:
        method = self.message.resolved.WhichOneof("method")
        verdict = "" if self.succeeded is None else ", succeeded" if self.succeeded else ", did not succeed"
        return f"<Synthesis {method}, {self.image.width} x {self.image.height}{verdict}>"


ResultT = TypeVar("ResultT", Explanation, Synthesis)
"""What a stream ends in."""


def result_of(message: Any, source: types.Image | None) -> Any:  # noqa: ANN401 - the stream knows its type
    """What a stream's last message tells; `source` is the image that was explained."""
    if isinstance(message, explain_pb2.ExplainResponse):
        return Explanation(message, source or types.Image())
    return Synthesis(message)


@dataclass(frozen=True)
class Estimate:
    """What a request would cost. If the method does not apply to the model, `reason` says why, and the figures are 0.

    `rows` run through the model forward, of `gradients` of them the gradient is taken; `steps` are those of the
    progress (0: the method has none); with `may_stop_early` all three are upper bounds. `memory_bytes` is what the
    largest row needs of the device, `memory_limit_bytes` what a step may have. `device_seconds` is None until the
    server has run such rows. `resolved` is the request with every default filled in, images left out; None if the
    method does not apply."""

    applies: bool
    reason: str
    rows: int
    gradients: int
    steps: int
    may_stop_early: bool
    memory_bytes: int
    memory_limit_bytes: int
    device_seconds: float | None
    resolved: explain_pb2.ExplainRequest | synthesize_pb2.SynthesizeRequest | None

    @classmethod
    def of(cls, message: estimate_pb2.EstimateResponse) -> Estimate:
        """From the answer's message."""
        cost, kind = message.cost, message.WhichOneof("resolved")
        return cls(
            applies=message.applies,
            reason=message.reason,
            rows=cost.rows,
            gradients=cost.gradients,
            steps=cost.steps,
            may_stop_early=cost.may_stop_early,
            memory_bytes=cost.memory_bytes,
            memory_limit_bytes=cost.memory_limit_bytes,
            device_seconds=cost.device_seconds if cost.HasField("device_seconds") else None,
            resolved=getattr(message, kind) if kind else None,
        )


def named(target: types.ExplainedTarget) -> str:
    """A target in words."""
    inner = target.target
    kind = inner.WhichOneof("target")
    if kind == "class_index":
        return target.label or f"class {inner.class_index}"
    if kind == "contrast":
        return f"class {inner.contrast.class_index} against {inner.contrast.against}"
    if kind == "element":
        return f"{inner.element.output or 'output'} {list(inner.element.index)}"
    if kind == "direction":
        return f"a direction at {inner.direction.layer or 'the output'}"
    if kind is None:
        return "no target"
    place = f" at {inner.neuron.row}, {inner.neuron.column}" if kind == "neuron" else ""
    return f"{kind} {getattr(inner, kind).layer or 'output'}:{getattr(inner, kind).channel}{place}"


def listed(predictions: list[types.Prediction]) -> list[str]:
    """Classes with their probabilities. A probability of nothing at all is none: the model's values are no scores of
    classes, and are told as they are."""
    return [
        f"{item.label or f'class {item.class_index}'} "
        + (f"{item.probability:.1%}" if item.probability else f"score {item.score:.4g}")
        for item in predictions
    ]


def _opened(png: bytes, pixels: types.Tensor) -> Pil.Image:
    """A picture in the form that it came in: a file, or where there is none its pixels."""
    return Pil.open(io.BytesIO(png)) if png else images.from_pixels(images.to_array(pixels))
