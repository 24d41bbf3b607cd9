"""Class activation map: the last layer before a global average pooling, weighted by the linear layer behind it. Zhou et
al. 2015, arXiv:1512.04150."""

from __future__ import annotations

from lightwell_server.contract import OUTPUT, Explaining, Explanation, Facts, Heatmap, ModelInput, Target
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._cam import activations_and_gradients


def applies(facts: Facts) -> str | None:
    """Only where the pooled layer's weights are the gradient, whatever the image."""
    if facts.pooled is not None:
        return None
    return "it does not end in a global average pooling with at most one linear layer behind it; use grad_cam"


def cam(image: ModelInput, target: Target, facts: Facts) -> Explaining:
    """A map [h, w] on the pooled layer's grid, in units of the score: its mean is the score without its bias. The
    weight of a channel is its gradient, summed over all positions."""
    if target.at != OUTPUT or getattr(target, "readout", "score") != "score":
        raise InvalidArgument.at("target", "cam explains scores of the model's output; use grad_cam for other targets")
    assert facts.pooled is not None  # else it does not apply
    activations, grads = yield from activations_and_gradients(image, target, facts.pooled, facts)
    weights = grads.sum((1, 2), keepdim=True)
    return Explanation(Heatmap((weights * activations).sum(0), "bilinear", signed=True))
