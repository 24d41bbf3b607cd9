"""The weights of a layer, as an answer."""

from __future__ import annotations

from lightwell.v1 import models_pb2 as models
from lightwell_server.codec import tensors
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.models.filters import convolutions, weights
from lightwell_server.models.store import Model

MOST = 15_000_000
"""Weights that an answer may hold: 60 MB, which fit into a message of 64 MiB."""


def filters(model: Model, layer: str) -> models.GetFiltersResponse:
    """The weights of a layer, or of the first convolution. Raises InvalidArgument for a layer that has none."""
    known = convolutions(model.graph)
    if not layer and not known:
        raise InvalidArgument.at("layer", "the model has no convolution; name a linear layer")
    found = model.facts.layer(layer or known[0])
    if found is None:
        names = [one.name for one in model.facts.layers]
        raise InvalidArgument.at("layer", f"the model has no layer {layer!r}; {nearest(layer, names)}")
    values = weights(model.graph, found.name)
    if values is None:
        inside = [name for name in known if name.startswith(f"{found.name}.")]
        wanted = f"name one inside of it: {', '.join(inside[:3])}" if inside else nearest(layer, known)
        raise InvalidArgument.at("layer", f"{found.name} is no convolution and no linear layer; {wanted}")
    if values.numel() > MOST:
        raise InvalidArgument.at("layer", f"{found.name} has {values.numel():,} weights; {MOST:,} at most are told")
    return models.GetFiltersResponse(
        model=model.name, version=model.version, layer=found.name, weights=tensors.from_tensor(values.detach())
    )
