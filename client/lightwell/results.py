"""The results of calls, as arrays, pictures and the original message."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL.PngImagePlugin import PngInfo

from lightwell import images
from lightwell.pictures import drawing, render
from lightwell.pictures.heatmap import Floats, enlarged
from lightwell.v1 import estimate_pb2, explain_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

RECORD = "lightwell"
"""The name of the text in a PNG or an .npz that tells what it answers."""
_AS_NUMBERS = {types.VIEW_VECTOR, types.VIEW_POINTS, types.VIEW_TABLE}


class _Shared:
    """The properties that both kinds of result have."""

    message: Any

    @property
    def target(self) -> types.ExplainedTarget:
        """The target, with its score and probability."""
        return self.message.target  # type: ignore[no-any-return]

    @property
    def warnings(self) -> list[str]:
        """Warnings about this result, one sentence each."""
        return [warning.message for warning in self.message.warnings]

    @property
    def provenance(self) -> types.Provenance:
        """The model, images, device, versions and timings of the result."""
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
    """The response to `explain`. In a notebook it shows its picture."""

    message: explain_pb2.ExplainResponse
    source: types.Image

    @cached_property
    def values(self) -> Floats:
        """The map on its native grid, float32 [h, w]. Raises ValueError for methods without a map."""
        if not self.message.HasField("map"):
            raise ValueError(f"{self.method} has no map; it has: {', '.join(self.tensors) or 'predictions'}")
        return images.to_array(self.message.map.values).astype("float32")

    @cached_property
    def map(self) -> Floats:
        """The map at the model's input size, float32 [H, W]. Raises ValueError for methods without a map."""
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
        """The image that was sent; for a tensor, the bands that the model card draws."""
        return images.to_picture(self.source, self.message.bands)

    def picture(self) -> Pil.Image:
        """The result without the image: the map at the model's input size, the sheet of activations, or the object that
        a segmentation cut out. Raises ValueError for methods without a picture."""
        return self._drawn("sheet", "cutout", "map")

    def overlay(self) -> Pil.Image:
        """The map over the original image; for a segmentation the object in the image, with everything else dark and
        grey. Raises ValueError for methods without a map."""
        return self._drawn("overlay")

    def cutout(self) -> Pil.Image:
        """The object of a segmentation: RGBA of the original image's size, transparent outside the object. Raises
        ValueError for other methods."""
        return self._drawn("cutout")

    def shown(self) -> Pil.Image:
        """The picture that is saved, and that a notebook shows: the sheet, the cut-out, the overlay or the map. Raises
        ValueError for methods without a picture."""
        return self._drawn("sheet", "cutout", "overlay", "map")

    @property
    def ending(self) -> str | None:
        """The ending of a saved file: ".png" for a picture, else ".npz" for a vector, points or a table, else None."""
        if self._kinds:
            return ".png"
        return None if self._numbers is None else ".npz"

    @property
    def _numbers(self) -> str | None:
        """The name of the tensor that is saved as numbers."""
        return next((item.name for item in self.message.tensors if item.view in _AS_NUMBERS), None)

    def save(self, path: str | Path, record: str = "") -> None:
        """Writes the picture in the format of the path's ending. A cut-out is put on white if the format has no
        transparency. With .npz it writes the map, if there is one, and all tensors by name; with .npy the vector, the
        points or the table, float32. A PNG and an .npz also hold the text `record` under the name `RECORD`. Raises
        ValueError for methods that do not have what is written."""
        ending = Path(path).suffix.lower()
        if ending == ".npz":
            texts: dict[str, Any] = {RECORD: np.array(record)} if record else {}
            np.savez(path, **self._arrays, **texts)
        elif ending == ".npy":
            if self._numbers is None:
                raise ValueError(f"{self.method} has no vector, points or table to write; save its picture")
            np.save(path, self.tensors[self._numbers])
        elif ending == ".png":
            info = PngInfo()
            if record:
                info.add_itxt(RECORD, record)
            self.shown().save(path, pnginfo=info)
        else:
            (render.on_white(self.shown()) if ending in (".jpg", ".jpeg") else self.shown()).save(path)

    @property
    def _arrays(self) -> dict[str, Any]:
        """The map and the tensors. Raises ValueError if there are none."""
        found = {"map": self.map} if self.message.HasField("map") else {}
        found |= self.tensors
        if not found:
            raise ValueError(f"{self.method} has no numbers to write")
        return found

    def _drawn(self, *kinds: str) -> Pil.Image:
        """The first of the kinds that the explanation has."""
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
    """The progress of a stream. For a synthesis: the steps done and planned, the `objective`, and an `image` if a
    preview was due. For an explanation: the passes through the model that are done and requested, counted from 0 each
    time the method asks."""

    step: int
    steps: int
    objective: float | None = None
    image: Pil.Image | None = None

    @classmethod
    def of(cls, message: synthesize_pb2.Progress | explain_pb2.ExplainProgress) -> Progress:
        """The progress in a stream's message."""
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
        """Whether the method reached its goal; None for methods without a verdict."""
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
        """Writes the image. A PNG has exactly the pixels to which the verdict applies."""
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
"""The result of a stream."""


def result_of(message: Any, source: types.Image | None) -> Any:  # noqa: ANN401 - the stream knows its type
    """The result in a stream's last message; `source` is the image that was explained."""
    if isinstance(message, explain_pb2.ExplainResponse):
        return Explanation(message, source or types.Image())
    return Synthesis(message)


@dataclass(frozen=True)
class Estimate:
    """The cost of a request. If the method does not apply to the model, `reason` says why, and the figures are 0.

    `rows` pass forward through the model; for `gradients` of them the gradient is computed. `steps` are those of the
    progress (0: the method has none). With `may_stop_early` all three are upper bounds. `memory_bytes` is the device
    memory for the largest row, `memory_limit_bytes` the limit of a step. `device_seconds` is None until the server has
    run such rows. `resolved` is the request with all defaults, without images; None if the method does not apply."""

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
        """The estimate in a response."""
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
    """Classes with their probabilities, or with their scores if the probability is 0: then the model's values are not
    scores of classes."""
    return [
        f"{item.label or f'class {item.class_index}'} "
        + (f"{item.probability:.1%}" if item.probability else f"score {item.score:.4g}")
        for item in predictions
    ]


def _opened(png: bytes, pixels: types.Tensor) -> Pil.Image:
    """A picture from PNG or, without it, from pixels."""
    return Pil.open(io.BytesIO(png)) if png else images.from_pixels(images.to_array(pixels))
