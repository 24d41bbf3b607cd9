"""XGrad-CAM: a channel's weight is its gradient, averaged over its places by their share of its activation."""

import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import CLASS, COLORS, TARGET, ask, close, model, picture, reading
from tests.nets import Residual, seeded

WHOLE = (1, 2)


def formula(activations, grads):
    shares = (activations / activations.sum(WHOLE, keepdim=True)).nan_to_num()
    return ((shares * grads).sum(WHOLE, keepdim=True) * activations).sum(0).relu()


def test_by_hand(placed):
    """Of red, which sums to 2, the score gets 2; of green, which sums to 2 as well, -1.5."""
    red, green = COLORS[0, 0], COLORS[0, 1]
    assert close(ask(placed, "x_grad_cam", COLORS, ClassTarget(1)).map.values, (red - 0.75 * green).relu())
    assert close(ask(placed, "x_grad_cam", COLORS, ClassTarget(0)).map.values, (0.75 * green - red).relu())


def test_channels_are_weighted_by_their_gradients_where_they_are_active(residual, parts):
    assert close(ask(residual, "x_grad_cam", picture(), TARGET).map.values, formula(*parts[:2]))


def test_a_layer_that_is_named_is_the_one_that_is_read(residual, eager):
    theirs = formula(*reading(eager, picture(), "stem"))
    assert close(ask(residual, "x_grad_cam", picture(), TARGET, layer="stem").map.values, theirs)


def test_it_adds_up_to_the_score(tmp_path):
    """On pooling and a linear layer without bias, where every weight is positive, so that nothing is cut off."""
    net = seeded(Residual)
    net.head.weight.data.abs_()
    net.head.bias.data.zero_()
    lifted, score = model(net, tmp_path), net.double()(picture())[0, CLASS].detach()
    assert close(ask(lifted, "x_grad_cam", picture(), TARGET).map.values.sum(), score)


def test_a_channel_that_is_zero_everywhere_weighs_nothing(placed):
    """Without red, class 0 has green alone, with 0.75 of its sum."""
    green = COLORS * torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    assert close(ask(placed, "x_grad_cam", green, ClassTarget(0)).map.values, 0.75 * green[0, 1])
    assert not bool(ask(placed, "x_grad_cam", torch.zeros_like(COLORS), ClassTarget(0)).map.values.any())
