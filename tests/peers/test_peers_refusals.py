"""Methods that do not apply to a network are refused with their reason, in every form of its file; all others are
offered."""

import pytest

from lightwell_server.catalog import catalog
from lightwell_server.errors import NotApplicable
from tests.peers.files import NETS

NO_RELU = "the model has no ReLU, so that its result would be the plain gradient"
NOT_POOLED = "it does not end in a global average pooling with at most one linear layer behind it; use grad_cam"
NO_STYLE = "the model has no convolutional layers whose Gram matrices could carry a style"
RULED = ("guided_backprop", "deconvnet", "guided_grad_cam")

REFUSED = {
    "vgg19_bn": {"cam": NOT_POOLED},  # three linear layers behind 7 x 7 places
    "efficientnet_b0": dict.fromkeys(RULED, NO_RELU),  # SiLU
    "convnext_tiny": {"cam": NOT_POOLED, **dict.fromkeys(RULED, NO_RELU)},  # GELU; a layer norm behind the pooling
    "vit_b_16": {"cam": NOT_POOLED, **dict.fromkeys(RULED, NO_RELU)},  # GELU; the class token alone is read
}


def test_refusals(case):
    reasons = {name: method.applies(case.model.facts) for name, method in catalog().items()}
    given = {name: reason for name, reason in reasons.items() if reason is not None and name != "style_transfer"}
    assert given == REFUSED.get(case.name, {})
    for name, reason in given.items():
        with pytest.raises(NotApplicable, match=f"{name} does not apply to {case.name}@1: {reason}"):
            case.ask(name)


def test_every_refused_network_is_compared():
    assert set(REFUSED) < set(NETS)
