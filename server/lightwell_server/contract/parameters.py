"""Types of methods' parameters, with what is checked of them before a method begins."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from annotated_types import Interval
from pydantic import AfterValidator, InstanceOf, ValidationInfo
from torch import Tensor

from lightwell_server.contract.facts import Facts
from lightwell_server.errors import nearest

ModelInput = Annotated[Tensor, InstanceOf(), "fitted"]
"""[1, 3, H, W] in [0, 1]: an image resized and cropped as the model's card says. Where it says that the channels are no
colours, there are as many as it says, here and wherever rows have 3."""
FullImage = Annotated[Tensor, InstanceOf(), "whole"]
"""[1, 3, H, W] in [0, 1]: a whole image at its own size."""


def _known_layer(name: str, info: ValidationInfo[dict[str, Any]]) -> str:
    facts: Facts | None = info.context["facts"]
    if facts is not None and facts.layer(name) is None:
        names = [layer.name for layer in facts.layers]
        raise ValueError(f"the model has no layer {name!r}; {nearest(name, names)}")
    return name


def _with_grid(name: str, info: ValidationInfo[dict[str, Any]]) -> str:
    facts: Facts | None = info.context["facts"]
    layer = facts.layer(name) if facts is not None else None
    if layer is not None and not layer.has_grid:
        raise ValueError(f"{name} has no height and width; its output is {list(layer.shape)}")
    return name


LayerName = Annotated[str, AfterValidator(_known_layer)]
"""The name of one of the model's layers; checked before the method begins."""
GridLayer = Annotated[LayerName, AfterValidator(_with_grid)]
"""The name of a layer with height and width."""
ModelName = Annotated[str, "model"]
"""The name of another model; the parameter's own name is the role that `Ask.model` takes."""


Share = Annotated[float, Interval(ge=0, le=1)]


class Color(NamedTuple):
    """A colour."""

    red: Share
    green: Share
    blue: Share
