"""The content of a sheet's cell: a picture of the image's size, or text."""

from __future__ import annotations

from PIL import Image as Pil

from lightwell import images
from lightwell.pictures import drawing, render
from lightwell.results import Explanation, Synthesis, listed
from lightwell.transport.errors import LightwellError
from lightwell.v1 import types_pb2 as types

MOST = 20
"""The most maps or pictures of one result in a cell."""


def reduced(image: types.Image, side: int) -> Pil.Image:
    """An image scaled to fit into a square."""
    return _fitted(images.to_picture(image), (side, side))


def shown(answer: Explanation | Synthesis | LightwellError, original: Pil.Image) -> Pil.Image | str:
    """The picture or text for a result about an image that was reduced to `original`."""
    if isinstance(answer, LightwellError):
        return answer.message
    if isinstance(answer, Synthesis):
        return _fitted(answer.image.convert("RGB"), original.size)
    kinds = drawing.kinds(answer.message)
    if not kinds:
        return "\n".join(listed(answer.predictions)) or ", ".join(
            f"{name} {list(values.shape)}" for name, values in answer.tensors.items()
        )
    placement = _placement(answer.message.placement, original)
    if kinds[0] == "overlay" and render.single(answer.message.map):
        return render.alone(original.size, answer.map, answer.message.map, placement)
    if kinds[0] == "sheet":
        return _fitted(drawing.sheet(answer.message, MOST), original.size)
    return render.on_white(drawing.draw(kinds[0], answer.message, original, placement))


def _fitted(picture: Pil.Image, size: tuple[int, int]) -> Pil.Image:
    """A picture scaled to fit into a size."""
    ratio = min(size[0] / picture.width, size[1] / picture.height)
    width, height = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    return picture.resize((width, height), Pil.Resampling.LANCZOS)


def _placement(place: types.Placement, original: Pil.Image) -> types.Placement:
    """Where the model's pixels lie in the reduced image."""
    across, down = original.width / place.width, original.height / place.height
    return types.Placement(
        scale_x=place.scale_x * across,
        scale_y=place.scale_y * down,
        offset_x=place.offset_x * across,
        offset_y=place.offset_y * down,
        width=original.width,
        height=original.height,
    )
