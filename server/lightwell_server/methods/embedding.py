"""Embedding: the image as a vector of features."""

from __future__ import annotations

from torch import Tensor

from lightwell_server.contract import (
    EMBEDDING,
    OUT,
    Ask,
    Explaining,
    Explanation,
    Facts,
    LayerName,
    ModelInput,
    View,
)
from lightwell_server.errors import InvalidArgument


def embedding(image: ModelInput, facts: Facts, *, layer: LayerName | None = None) -> Explaining:
    """`embedding` [features]: what the last linear layer gets, or a layer's output; over positions and tokens the mean
    is taken."""
    if layer is None and not facts.embeds:
        raise InvalidArgument.at("embedding.layer", "the model has no linear layer; name the layer that is meant")
    values = (yield Ask(image, at=layer or EMBEDDING, want=OUT)).out
    return Explanation(tensors={"embedding": _mean(values)}, views={"embedding": View("vector")})


def _mean(values: Tensor) -> Tensor:
    """The mean [features] over positions, or over tokens [1, tokens, features], of a single row."""
    if values.dim() == 3:
        return values[0].mean(0)
    return values[0].flatten(1).mean(1) if values.dim() > 2 else values[0]
