"""GetFilters: the weights of a layer, and their picture if requested."""

from __future__ import annotations

from lightwell.images import to_array
from lightwell.pictures import tiles
from lightwell.v1 import models_pb2 as models
from lightwell_server.codec import images, tensors
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.models.filters import convolutions, weights
from lightwell_server.models.store import Model

MOST = 15_000_000
"""Most weights of a response: 60 MB, which fit into a message of 64 MiB."""
DRAWING = 1e-7
"""Seconds of drawing per byte of weights, about."""


def get_filters(request: models.GetFiltersRequest, model: Model) -> models.GetFiltersResponse:
    """The weights of a layer, or of the first convolution. Raises InvalidArgument for a layer that has none."""
    layer, known = request.layer, convolutions(model.graph)
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


def complete(response: models.GetFiltersResponse, request: models.GetFiltersRequest) -> models.GetFiltersResponse:
    """The weights with their picture, if it is requested."""
    if request.picture:
        picture, response.filters, response.channels = tiles.filters(to_array(response.weights))
        response.png = images.png(picture)
    return response


def completing_seconds(response: models.GetFiltersResponse, request: models.GetFiltersRequest) -> float:
    """Processor seconds of drawing."""
    return DRAWING * len(response.weights.data) if request.picture else 0.0
