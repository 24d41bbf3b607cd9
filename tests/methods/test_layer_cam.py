"""LayerCAM: each place is the sum over channels of activation times positive gradient there."""

import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import CLASS, COLORS, TARGET, ask, close, model, picture, reading
from tests.nets import Residual, seeded


def formula(activations, grads):
    return (grads.clamp(min=0) * activations).sum(0).relu()


def test_by_hand(placed):
    """Class 1 has positive weights for red on the left, 1 and 2, and for green below on the left, 1; class 0 for red at
    the top right, 1, and for green at the top left, 2, and the bottom right, 3."""
    one = torch.tensor([[1.0, 0.0], [1.5, 0.0]], dtype=torch.float64)
    other = torch.tensor([[0.5, 0.0], [0.0, 1.5]], dtype=torch.float64)
    assert close(ask(placed, "layer_cam", COLORS, ClassTarget(1)).map.values, one)
    assert close(ask(placed, "layer_cam", COLORS, ClassTarget(0)).map.values, other)


def test_each_place_is_activation_times_positive_gradient(residual, parts):
    assert close(ask(residual, "layer_cam", picture(), TARGET).map.values, formula(*parts[:2]))


def test_a_layer_that_is_named_is_the_one_that_is_read(residual, eager):
    theirs = formula(*reading(eager, picture(), "stem"))
    assert close(ask(residual, "layer_cam", picture(), TARGET, layer="stem").map.values, theirs)


def test_without_negative_gradients_it_is_hires_cam(tmp_path):
    net = seeded(Residual)
    net.head.weight.data.abs_()
    lifted = model(net, tmp_path)
    assert close(*(ask(lifted, name, picture(), TARGET).map.values for name in ("layer_cam", "hires_cam")))


def test_without_positive_gradients_nothing_is_shown(tmp_path):
    net = seeded(Residual)
    net.head.weight.data[CLASS] = -net.head.weight.data[CLASS].abs()
    assert not bool(ask(model(net, tmp_path), "layer_cam", picture(), TARGET).map.values.any())
