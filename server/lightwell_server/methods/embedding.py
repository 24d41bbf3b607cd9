"""Embedding: the image as a vector of features."""

from __future__ import annotations

from lightwell_server.contract import (
    EMBEDDING,
    OUT,
    Ask,
    Explaining,
    Explanation,
    Facts,
    LayerName,
    ModelInput,
)
from lightwell_server.errors import InvalidArgument


def embedding(image: ModelInput, facts: Facts, *, layer: LayerName | None = None) -> Explaining:
    """`embedding` [features]: what the last linear layer gets, or a layer's output; over positions and tokens the mean
    is taken."""
    if layer is None and not facts.embeds:
        raise InvalidArgument.at("embedding.layer", "the model has no linear layer; name the layer that is meant")
    values = (yield Ask(image, at=layer or EMBEDDING, want=OUT)).out
    if values.dim() == 3:  # tokens
        return Explanation(tensors={"embedding": values[0].mean(0)})
    return Explanation(tensors={"embedding": values[0].flatten(1).mean(1) if values.dim() > 2 else values[0]})
