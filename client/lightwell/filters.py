"""The weights of a layer, for people: an array, and a picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image as Pil

from lightwell import images
from lightwell.pictures import tiles
from lightwell.pictures.heatmap import Floats
from lightwell.v1 import models_pb2


@dataclass(eq=False)
class Filters:
    """The weights of a layer. In a notebook it shows its picture."""

    message: models_pb2.GetFiltersResponse

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.message.layer

    @cached_property
    def weights(self) -> Floats:
        """Float32, without the bias: [filters, channels, height, width] of a convolution, [filters, channels] of a
        linear layer."""
        return images.to_array(self.message.weights)

    def picture(self) -> Pil.Image:
        """The filters with their numbers, each from its least to its largest value: those of three channels in colour,
        of one in grey, others with a row each and a tile for each channel. What does not fit is left out."""
        png = self.message.png
        return Pil.open(io.BytesIO(png)) if png else tiles.filters(self.weights)[0]

    def save(self, path: str | Path) -> None:
        """Writes the picture; the path's ending says the format."""
        self.picture().save(path)

    def _repr_png_(self) -> bytes:
        return self.message.png or images.png(self.picture())

    def __repr__(self) -> str:
        return f"<Filters of {self.layer}, {self.weights.shape}>"
