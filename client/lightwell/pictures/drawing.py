"""The pictures of an explanation. SDK and server draw them with this one function."""

from __future__ import annotations

from PIL import Image as Pil

from lightwell import images
from lightwell.pictures import render, tiles
from lightwell.pictures.heatmap import enlarged
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import types_pb2 as types


def kinds(response: explain.ExplainResponse) -> tuple[str, ...]:
    """Which pictures an explanation has, by the names of `PictureKind`; the one that says most comes first."""
    names = {item.name for item in response.tensors}
    found = [kind for kind, tensor in (("sheet", "activations"), ("cutout", "mask")) if tensor in names]
    return (*found, "overlay", "map") if response.HasField("map") else tuple(found)


def draw(
    kind: str, response: explain.ExplainResponse, original: Pil.Image, placement: types.Placement | None = None
) -> Pil.Image:
    """One of the `kinds` of an explanation. `placement` says where the model's pixels lie in `original`, if not as the
    response says. Raises ValueError for a kind that it has not."""
    known = kinds(response)
    if kind not in known:
        name = response.resolved.WhichOneof("method")
        raise ValueError(f"{name} has no {kind}; it has: {', '.join(known)}" if known else f"{name} has no picture")
    placement = placement or response.placement
    tensors = {item.name: images.to_array(item.tensor) for item in response.tensors}
    if kind == "sheet":
        return tiles.activations(tensors["activations"], tensors["channels"].tolist())
    if kind == "cutout":
        return render.cutout(original, tensors["mask"], placement)
    if kind == "overlay" and "mask" in tensors:
        return render.shown(original, tensors["mask"], placement)
    values = enlarged(images.to_array(response.map.values).astype("float32"), response.map)
    if kind == "overlay":
        return render.overlay(original, values, response.map, placement)
    return render.picture(values, response.map)
