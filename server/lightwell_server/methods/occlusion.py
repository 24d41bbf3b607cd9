"""Occlusion: the target's value with each window of the image masked. Zeiler and Fergus 2013, arXiv:1311.2901."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from lightwell_server.contract import (
    OUT,
    OUTPUT,
    SCORE,
    Ask,
    Color,
    Explaining,
    Explanation,
    Facts,
    Heatmap,
    ModelInput,
    Rows,
    Target,
    resolve_target,
)
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._math import blurred, mean_color


def defaults(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The readout `value`: the score if the model has no probabilities."""
    return {"value": "score"} if facts.activation == "none" else {}


def occlusion(
    image: ModelInput,
    target: Target,
    facts: Facts,
    *,
    window: Annotated[int, Ge(1)] = 32,
    stride: Annotated[int, Ge(1)] = 16,
    fill: Literal["mean", "image_mean", "black", "grey", "blur"] = "mean",
    color: Color | None = None,
    value: Literal["score", "probability", "log_probability"] = "probability",
) -> Explaining:
    """A signed map [rows, columns] over the windows of `image` [1, 3, H, W] in [0, 1]: the drop of the target's value
    when a window is masked. The tensor `value` [rows, columns] is the value that is left, the paper's heat map, where
    low is important. The tensor `top_class` [rows, columns], int32, for classifiers only, is the most probable class
    that is left, the paper's figure 7e. The measure `clean_value` is the value without a mask. All but `top_class` are
    float32 or float64.

    - `window`: side of a window in pixels, from 1 to the shorter side of the image.
    - `stride`: distance of windows in pixels, at least 1.
    - `fill`: what covers a window. "mean" is the mean colour of the model card. "blur" is the image under a Gaussian
      with a sigma of a quarter of the window.
    - `color`: a colour that covers a window instead, red, green and blue from 0 to 1.
    - `value`: how a class is read.

    Raises InvalidArgument if a window is larger than the image, if a colour is given and the channels are not colours,
    or if a probability is asked for and the model has none.
    """
    height, width = image.shape[-2:]
    if window > min(height, width):
        raise InvalidArgument.at(
            "occlusion.window",
            f"{window} is larger than the image, {height} x {width}; use at most {min(height, width)}",
        )
    if color is not None and facts.tensor:
        raise InvalidArgument.at("occlusion.color", "the channels of the model's images are no colours; use fill")
    if value != "score" and facts.activation == "none":
        raise InvalidArgument.at("occlusion.value", "the model's outputs are no probabilities; use score")
    target, seen = yield from resolve_target(target.read(value), image)
    clean = seen.score
    # The last window is at the edge; where windows are apart, none begins behind it.
    down, across = (min(math.ceil((side - window) / stride) + 1, math.ceil(side / stride)) for side in (height, width))
    patch = _filling(image, facts, fill, color, window)

    def masked(index: Tensor) -> Tensor:
        rows = image.repeat(len(index), 1, 1, 1)
        for row, place in zip(rows, index.tolist(), strict=True):
            top, left = place // across * stride, place % across * stride
            row[:, top : top + window, left : left + window] = patch[:, top : top + window, left : left + window]
        return rows

    classified = target.at == OUTPUT and facts.classes > 1
    answer = yield Ask(
        Rows(down * across, masked), target.score, at=target.at, want=SCORE | OUT if classified else SCORE
    )
    left_over = answer.score.view(down, across)
    tensors = {"value": left_over}
    if classified:
        tensors["top_class"] = answer.out.argmax(1).to(torch.int32).view(down, across)
    return Explanation(
        Heatmap(clean - left_over, "windows", window, stride, signed=True), tensors, {"clean_value": float(clean)}
    )


def _filling(image: Tensor, facts: Facts, fill: str, color: tuple[float, ...] | None, window: int) -> Tensor:
    """What lies under the windows: [3, H, W]."""
    if color is not None:
        filling = torch.tensor(color, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    elif fill == "blur":
        filling = blurred(image, window / 4)
    elif fill == "image_mean":
        filling = image.mean((2, 3), keepdim=True)
    elif fill == "mean":
        filling = mean_color(facts, image)
    else:
        filling = torch.full_like(image[:, :, :1, :1], 0.0 if fill == "black" else 0.5)
    return filling.expand_as(image)[0]
