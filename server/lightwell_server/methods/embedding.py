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
    """The tensor `embedding` [features] of `image` [1, 3, H, W] in [0, 1], both float32 or float64: the output of
    `layer`, or with None the input of the last linear layer. It is the mean over positions or tokens. Raises
    InvalidArgument if `layer` is None and the model does not end in a linear layer."""
    if layer is None and not facts.embeds:
        raise InvalidArgument.at("embedding.layer", "the model has no linear layer; name the layer that is meant")
    values = (yield Ask(image, at=layer or EMBEDDING, want=OUT)).out
    return Explanation(tensors={"embedding": _mean(values)}, views={"embedding": View("vector")})


def _mean(values: Tensor) -> Tensor:
    """The mean [features] over positions, or over tokens [1, tokens, features], of a single row."""
    if values.dim() == 3:
        return values[0].mean(0)
    return values[0].flatten(1).mean(1) if values.dim() > 2 else values[0]
