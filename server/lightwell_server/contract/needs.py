"""What a method needs, as it is declared beside its function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Image = Literal["input", "full", "none"]
"""What a method looks at: the image as the model takes it, the whole image at its own size, or none."""
Kind = Literal["classifier", "stylizer", "generator"]
"""What a model is: image to scores, image to image, or code to image."""


@dataclass(frozen=True)
class Needs:
    """What a method needs. The catalogue, preparation, admission, dispatch and estimates read it, so that none of them
    knows a method by name. A method's file sets the first three in an attribute `needs`; the catalogue adds the others
    from the function's signature.

    - `kind`: the kind of model, or "any".
    - `planned`: the parameter with the number of planned steps or queries. Price and limits depend on it.
    - `early`: the flag that lets the method end before these are over.
    - `image`: what the method looks at, by its type `ModelInput` or `FullImage`.
    - `models`: the parameters that name further models, with the kind of each.
    - `layers`: the parameters that name layers.
    """

    kind: Kind | Literal["any"] = "classifier"
    planned: str | None = None
    early: str | None = None
    image: Image = "input"
    models: Mapping[str, Kind] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
