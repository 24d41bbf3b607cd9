"""Types of methods' parameters, with the checks that run before a method starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

from annotated_types import Interval
from pydantic import AfterValidator, InstanceOf, ValidationInfo
from torch import Tensor

from lightwell_server.contract.facts import Facts
from lightwell_server.contract.needs import Image, Kind
from lightwell_server.errors import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class ImageType:
    """Marks the type of an image. `image` is what a method sees of it."""

    image: Image


@dataclass(frozen=True)
class LayerType:
    """Marks the name of a layer."""


@dataclass(frozen=True)
class Role:
    """Marks the name of a further model. `kind` is what it must be."""

    kind: Kind


def marks(hint: Any, kind: type[T]) -> Iterator[T]:  # noqa: ANN401 - a parameter's annotation
    """The marks of type `kind` in an annotation, also within tuples and dataclasses."""
    if hasattr(hint, "__metadata__"):
        yield from (mark for mark in hint.__metadata__ if isinstance(mark, kind))
        parts: Iterable[Any] = (hint.__origin__,)
    elif isinstance(hint, type) and is_dataclass(hint):
        parts = get_type_hints(hint, include_extras=True).values()
    else:
        parts = get_args(hint)
    for part in parts:
        yield from marks(part, kind)


ModelInput = Annotated[Tensor, InstanceOf(), ImageType("input")]
"""An image [1, 3, H, W], float32 or float64, in [0, 1], resized and cropped as the model's card says."""
FullImage = Annotated[Tensor, InstanceOf(), ImageType("full")]
"""A whole image [1, 3, H, W] at its own size, float32 or float64, in [0, 1]."""


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


LayerName = Annotated[str, AfterValidator(_known_layer), LayerType()]
"""The name of one of the model's layers. Raises ValueError in validation if the model has no such layer."""
GridLayer = Annotated[LayerName, AfterValidator(_with_grid)]
"""The name of a layer with height and width. Raises ValueError in validation for any other name."""
ModelName = Annotated[str, Role("classifier")]
"""The name of another classifier on the same device: `name`, `name@version` or `name@alias`. The parameter's own name
is the value of `Ask.model` and the key of the other model's `Facts` among `models`."""
GeneratorName = Annotated[str, Role("generator")]
"""The name of a generator, as `ModelName`."""


Share = Annotated[float, Interval(ge=0, le=1)]
"""A share, 0 to 1."""


class Color(NamedTuple):
    """A colour: `red`, `green` and `blue`, each 0 to 1."""

    red: Share
    green: Share
    blue: Share
