"""Draws the pictures of an explanation, in the SDK and in the server."""

from __future__ import annotations

from PIL import Image as Pil

from lightwell import images
from lightwell.pictures import render, tiles
from lightwell.pictures.heatmap import Floats, enlarged
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import types_pb2 as types

_SHEETS = {types.VIEW_MAPS, types.VIEW_IMAGES}


def kinds(response: explain.ExplainResponse, of_image: bool = True) -> tuple[str, ...]:
    """The pictures that an explanation has, by the names of `PictureKind`, the most informative first. Those that are
    drawn on the image need one (`of_image`)."""
    views = {item.view for item in response.tensors}
    found = {
        "sheet": bool(views & _SHEETS),
        "cutout": of_image and types.VIEW_MASK in views,
        "overlay": of_image and (response.HasField("map") or bool(views & {types.VIEW_MASK, types.VIEW_POINTS})),
        "map": response.HasField("map"),
    }
    return tuple(kind for kind, there in found.items() if there)


def draw(
    kind: str, response: explain.ExplainResponse, original: Pil.Image | None, placement: types.Placement | None = None
) -> Pil.Image:
    """One of the `kinds` of an explanation. `placement` is the position of the model's pixels in `original`, by default
    that of the response. Raises ValueError for a kind that it does not have."""
    known = kinds(response, original is not None)
    if kind not in known:
        name = response.resolved.WhichOneof("method")
        raise ValueError(f"{name} has no {kind}; it has: {', '.join(known)}" if known else f"{name} has no picture")
    placement = placement or response.placement
    if kind == "sheet":
        return sheet(response)
    if kind == "map" or original is None:  # an overlay needs an image
        return render.picture(_values(response), response.map)
    mask, points = _shown(response, types.VIEW_MASK), _shown(response, types.VIEW_POINTS)
    if mask is not None:
        return (render.cutout if kind == "cutout" else render.shown)(original, mask, placement)
    found = original
    if response.HasField("map"):
        found = render.overlay(original, _values(response), response.map, placement)
    return found if points is None else render.dots(found, points, placement)


def sheet(response: explain.ExplainResponse, most: int | None = None) -> Pil.Image:
    """The maps or pictures of an explanation side by side with their numbers: all, or the first `most`."""
    tensors = {item.name: images.to_array(item.tensor) for item in response.tensors}
    item = next(item for item in response.tensors if item.view in _SHEETS)
    values = tensors[item.name][:most]
    numbers = tensors[item.numbers].tolist() if item.numbers else range(len(values))
    return (tiles.maps if item.view == types.VIEW_MAPS else tiles.pictures)(values, numbers)


def _shown(response: explain.ExplainResponse, view: types.View.ValueType) -> Floats | None:
    """The tensor with that view, if there is one."""
    return next((images.to_array(item.tensor) for item in response.tensors if item.view == view), None)


def _values(response: explain.ExplainResponse) -> Floats:
    return enlarged(images.to_array(response.map.values).astype("float32"), response.map)
