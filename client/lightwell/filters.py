"""The weights of a layer as an array and as a picture."""

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
        """The filters with their indices, each scaled from its smallest to its largest value: in colour for three
        channels, in grey for one, otherwise a row for each filter with a tile for each channel. What does not fit is
        left out."""
        png = self.message.png
        return Pil.open(io.BytesIO(png)) if png else tiles.filters(self.weights)[0]

    def save(self, path: str | Path) -> None:
        """Writes the picture in the format of the path's ending."""
        self.picture().save(path)

    def _repr_png_(self) -> bytes:
        return self.message.png or images.png(self.picture())

    def __repr__(self) -> str:
        return f"<Filters of {self.layer}, {self.weights.shape}>"
