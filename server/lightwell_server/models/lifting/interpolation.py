"""`aten::__interpolate`, the operation for every kind of resizing in scripts of old versions of torch. It warns at each
call that its meaning has changed. Today's operations do the same without a warning."""

from __future__ import annotations

import math
from typing import Any

from lightwell_server.models.lifting import eval_mode
from lightwell_server.models.lifting.recorder import Recorder, aten
from lightwell_server.models.lifting.views import Box

NAME = "__interpolate"
_RECOMPUTED = 5
"""The index of the input that says whether scales are computed again from the sizes. If it is None, they are, with a
warning."""


def settled(graph: Any) -> None:  # noqa: ANN401 - a TorchScript graph
    """Sets that input to its default in a file's own graph."""
    for node in list(eval_mode.nodes(graph)):
        if node.kind() == f"aten::{NAME}" and node.inputsAt(_RECOMPUTED).type().kind() == "NoneType":
            yes = graph.insertConstant(True)
            yes.node().moveBefore(node)
            node.replaceInput(_RECOMPUTED, yes)


def interpolated(
    recorder: Recorder,
    image: Box,
    size: Any,  # noqa: ANN401 - a number, a list of them or None
    scale: Any,  # noqa: ANN401 - the same
    mode: str,
    aligned: bool | None,
    recomputed: bool | None = None,
    *_: Any,  # noqa: ANN401 - antialiasing, in the last versions
) -> Any:  # noqa: ANN401
    """Records the resizing of `image` [n, channels, height, width], floating. Raises `Refused` for other shapes and
    modes."""
    if image.value.dim() != 4 or mode not in ("nearest", "bilinear", "bicubic"):
        raise recorder.refuse(
            f"it is {mode} and of {image.value.dim()} dimensions; export the model with a newer torch"
        )
    scales: list[Any] = _two(scale) if scale is not None else [None, None]
    sizes = _two(size) if size is not None else [_scaled(recorder, image, dim, scales[dim - 2]) for dim in (2, 3)]
    kept = scales if recomputed is False else [None, None]
    operation = getattr(aten, f"upsample_{mode}2d").default
    corners = () if mode == "nearest" else (bool(aligned),)
    return recorder.op(operation, (image, sizes, *corners, *kept), {})


def _two(value: Any) -> list[Any]:  # noqa: ANN401
    return list(value) if isinstance(value, list | tuple) else [value, value]


def _scaled(recorder: Recorder, image: Box, dim: int, scale: float) -> Any:  # noqa: ANN401
    return recorder.scalar(_floored, recorder.size(image, dim), scale)


def _floored(side: int, scale: float) -> int:
    return math.floor(side * scale)
