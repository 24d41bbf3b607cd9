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
    """What a method needs, for the catalogue and all that reads it: decoding, preparation, admission, dispatch and
    estimate know no method by its name.

    A file says, as `needs`: of which `kind` a model must be, or "any"; which parameter is the number of steps or of
    queries that the method plans (`planned`), by which it is priced and limited; which flag lets it end before they
    are over (`early`). The rest is in the function's signature, and the catalogue adds it: `image`, by its type
    (`ModelInput`, `FullImage`; none where it is not named); `models`, the parameters that name a further model, each
    a role with the kind that it needs (`ModelName`, `GeneratorName`); `layers`, the parameters that name layers."""

    kind: Kind | Literal["any"] = "classifier"
    planned: str | None = None
    early: str | None = None
    image: Image = "input"
    models: Mapping[str, Kind] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
