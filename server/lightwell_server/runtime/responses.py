"""Results as responses: tensors, predictions, warnings, provenance; pictures as pixels. Blocks: run it on another
thread than the event loop's."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell.v1 import types_pb2 as types
from lightwell_server import __version__
from lightwell_server.codec import images
from lightwell_server.codec.targets import write_target
from lightwell_server.codec.tensors import data_type, from_tensor
from lightwell_server.contract import (
    OUTPUT,
    ClassTarget,
    Explanation,
    Frame,
    Heatmap,
    Observed,
    Seen,
    Synthesis,
    Target,
    View,
    reading,
)
from lightwell_server.engine.run import Run
from lightwell_server.models.store import Model
from lightwell_server.runtime.prepare import PreparedRequest

SATURATED = 1e-4
"""A probability closer than this to 0 or 1 is saturated."""

_ENLARGEMENTS = {
    "none": types.ENLARGEMENT_NONE,
    "bilinear": types.ENLARGEMENT_BILINEAR,
    "windows": types.ENLARGEMENT_WINDOWS,
}


def explanation(prepared: PreparedRequest, observed: Observed, run: Run) -> explain.ExplainResponse:
    """The response to an Explain request."""
    result, seen, dtype = observed.result, observed.seen, prepared.request.output.dtype
    assert isinstance(result, Explanation)
    target = _settled(prepared.target, seen)
    response = explain.ExplainResponse(
        tensors=_tensors(result.tensors, result.views, dtype),
        measures=_measures(result.measures),
        target=explained(target, seen, prepared.model) if type(target) is not Target else None,
        predictions=predictions(seen.out, prepared.model, prepared.predictions(result.predictions)),
        provenance=provenance(prepared, run),
        resolved=_resolved(prepared, target),
    )
    if result.map is not None:
        response.map.CopyFrom(_heatmap(result.map, prepared.size, dtype))
    response.warnings.extend(_warnings(prepared, target, seen, result.map))
    return response


def synthesis(prepared: PreparedRequest, observed: Observed, run: Run) -> synthesize.SynthesizeResult:
    """The last message of a Synthesize stream."""
    result, seen, request = observed.result, observed.seen, prepared.request
    assert isinstance(result, Synthesis) and isinstance(request, synthesize.SynthesizeRequest)
    output = request.output
    picture = result.image if result.picture is None else result.picture
    target = _settled(prepared.target, seen)
    tensors = {"image": result.image[0]} if output.image_tensor or prepared.model.facts.tensor else {}
    response = synthesize.SynthesizeResult(
        pixels=_pixels(picture, prepared),
        succeeded=result.succeeded,
        tensors=_tensors(tensors | result.tensors, result.views, output.dtype),
        pictures=[types.Picture(name=name, pixels=_pixels(p, prepared)) for name, p in result.pictures.items()],
        measures=_measures(result.measures),
        target=explained(target, seen, prepared.model) if seen.score is not None else None,
        predictions_before=predictions(seen.out, prepared.model, prepared.predictions()),
        predictions_after=predictions(result.final, prepared.model, prepared.predictions()),
        provenance=provenance(prepared, run),
        resolved=_resolved(prepared, target),
    )
    response.warnings.extend(_warnings(prepared, target, seen, None))
    if not bool(result.image.isfinite().all()):
        response.warnings.add(code=types.WARNING_CODE_NOT_FINITE, message="The image holds values that are not finite.")
    return response


def progress(frame: Frame, prepared: PreparedRequest) -> synthesize.Progress:
    """A progress message, with the frame's picture if it has one."""
    message = synthesize.Progress(step=frame.step, steps=frame.steps, objective=frame.objective)
    if frame.image is not None:
        message.preview_pixels.CopyFrom(_pixels(frame.image, prepared))
    return message


def _pixels(image: Tensor, prepared: PreparedRequest) -> types.Tensor:
    return images.from_pixels(images.to_picture(image, prepared.model.card.input.drawn))


def predictions(out: Tensor | None, model: Model, count: int) -> list[types.Prediction]:
    """The `count` classes with the highest scores, from scores [1, classes]."""
    if out is None or out.dim() != 2 or not count:
        return []
    scores, order = out[0].double().topk(min(count, out.shape[1]))
    chances = _chances(out, model)
    return [
        types.Prediction(
            class_index=i,
            label=_label(model, i),
            score=score,
            probability=0.0 if chances is None else float(chances[i]),
        )
        for score, i in zip(scores.tolist(), order.tolist(), strict=True)
    ]


def explained(target: Target, seen: Seen, model: Model) -> types.ExplainedTarget:
    """The resolved target with its values on the clean image."""
    message = types.ExplainedTarget(target=write_target(target, model.facts))
    if seen.out is not None and target.at == OUTPUT:
        message.score = float(target.score(seen.out, torch.zeros(1)))
    elif seen.score is not None:
        message.score = float(seen.score)
    if isinstance(target, ClassTarget) and target.index is not None:
        message.label = _label(model, target.index)
        chances = _chances(seen.out, model)
        if chances is not None:
            message.probability = float(chances[target.index])
    return message


def _chances(out: Tensor | None, model: Model) -> Tensor | None:
    """The probabilities [classes] for scores [1, classes] by the model's activation, or None if it has none."""
    activation = model.facts.activation
    if out is None or out.dim() != 2 or activation == "none":
        return None
    return reading(out.double(), "probability", activation)[0]


def provenance(prepared: PreparedRequest, run: Run) -> types.Provenance:
    """The provenance of a result: model, device, versions, and times."""
    device = prepared.model.graph.device
    cuda = device.type == "cuda"
    return types.Provenance(
        model=prepared.model.name,
        version=prepared.model.version,
        digest=prepared.model.digest,
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        threads=0 if cuda else torch.get_num_threads(),
        dtype=data_type(prepared.model.graph.dtype),
        server_version=__version__,
        library_version=torch.__version__,
        queue_seconds=run.queued,
        device_seconds=run.attained,
        steps=run.device_steps,
        exceptions=run.exceptions,
        attempts=1,
        further_digests={role: model.digest for role, model in prepared.further.items()},
    )


def _settled(target: Target, seen: Seen) -> Target:
    """Resolves an unset target to the class with the highest score on the clean image."""
    if isinstance(target, ClassTarget) and target.index is None and seen.out is not None and seen.out.dim() == 2:
        return replace(target, index=int(seen.out.argmax(1)))
    return target


def _resolved(prepared: PreparedRequest, target: Target) -> Any:  # noqa: ANN401 - of the request's own type
    resolved = prepared.resolved()
    if type(target) is not Target:
        resolved.target.CopyFrom(write_target(target, prepared.model.facts))
    return resolved


def _label(model: Model, index: int) -> str:
    return model.labels[index] if model.labels else ""


def _heatmap(result: Heatmap, size: tuple[int, int], dtype: types.DataType.ValueType) -> types.Heatmap:
    return types.Heatmap(
        values=from_tensor(result.values, dtype),
        enlargement=_ENLARGEMENTS[result.enlargement],
        height=size[0],
        width=size[1],
        window=result.window,
        stride=result.stride,
        signed=result.signed,
    )


def _tensors(
    tensors: Mapping[str, Tensor], views: Mapping[str, View], dtype: types.DataType.ValueType
) -> list[types.NamedTensor]:
    named = [types.NamedTensor(name=name, tensor=from_tensor(tensor, dtype)) for name, tensor in tensors.items()]
    for message in named:
        if (view := views.get(message.name)) is not None:
            message.view, message.numbers = types.View.Value(f"VIEW_{view.kind.upper()}"), view.numbers
    return named


def _measures(measures: Mapping[str, float]) -> list[types.Measure]:
    return [types.Measure(name=name, value=value) for name, value in measures.items()]


def _warnings(prepared: PreparedRequest, target: Target, seen: Seen, result: Heatmap | None) -> Iterator[types.Warning]:
    if result is not None and not bool(result.values.any()):
        yield types.Warning(code=types.WARNING_CODE_ZERO, message="The map is zero everywhere.")
    if result is not None and not bool(result.values.isfinite().all()):
        yield types.Warning(code=types.WARNING_CODE_NOT_FINITE, message="The map holds values that are not finite.")
    yield from _saturation(target, seen)
    if prepared.model.graph.row_by_row:
        yield types.Warning(
            code=types.WARNING_CODE_ROW_BY_ROW,
            message="The model mixes its rows, or takes one at a time: it is run row by row.",
        )


def _saturation(target: Target, seen: Seen) -> Iterator[types.Warning]:
    if not isinstance(target, ClassTarget) or target.readout == "score" or target.index is None or seen.out is None:
        return
    chance = float(reading(seen.out.double(), "probability", target.activation)[0, target.index])
    if not SATURATED < chance < 1 - SATURATED and math.isfinite(chance):
        yield types.Warning(
            code=types.WARNING_CODE_SATURATED,
            message=f"The probability is {chance:.6f}, where its gradient vanishes; explain the score instead.",
        )
