"""Class activation map: the last layer before a global average pooling, weighted by the linear layer after it. Zhou et
al. 2015, arXiv:1512.04150."""

from __future__ import annotations

from lightwell_server.contract import OUTPUT, Explaining, Explanation, Facts, Heatmap, ModelInput, Target
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._cam import activations_and_gradients


def applies(facts: Facts) -> str | None:
    """Why it does not apply to a model, or None. The gradient of the pooled layer must not depend on the image."""
    if facts.pooled is not None:
        return None
    return "it does not end in a global average pooling with at most one linear layer behind it; use grad_cam"


def cam(image: ModelInput, target: Target, facts: Facts) -> Explaining:
    """A signed map [h, w] of `image` [1, 3, H, W] in [0, 1], both float32 or float64, on the grid of the pooled layer,
    in units of the score. Its mean is the score without the bias of the linear layer. The weight of a channel is its
    gradient, summed over all positions. Raises InvalidArgument if the target is not a score of the model's output."""
    if target.at != OUTPUT or getattr(target, "readout", "score") != "score":
        raise InvalidArgument.at("target", "cam explains scores of the model's output; use grad_cam for other targets")
    assert facts.pooled is not None  # else it does not apply
    activations, grads = yield from activations_and_gradients(image, target, facts.pooled, facts)
    weights = grads.sum((1, 2), keepdim=True)
    return Explanation(Heatmap((weights * activations).sum(0), "bilinear", signed=True))
