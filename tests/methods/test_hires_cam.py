"""HiResCAM: each place is the sum over channels of activation times gradient there; all together they are the score."""

import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import CLASS, COLORS, TARGET, ask, close, model, picture, reading
from tests.nets import Residual, seeded


def formula(activations, grads):
    return (grads * activations).sum(0).relu()


def test_by_hand(placed):
    """Products of red are 1, 0, 1, 0, of green -0.5, 0, 0.5, -1.5."""
    whole = torch.tensor([[0.5, 0.0], [1.5, -1.5]], dtype=torch.float64)
    assert close(ask(placed, "hires_cam", COLORS, ClassTarget(1)).map.values, whole.relu())
    assert close(ask(placed, "hires_cam", COLORS, ClassTarget(0)).map.values, (-whole).relu())


def test_what_two_opposite_classes_show_adds_up_to_the_score(placed):
    """What is cut off the map of a class is that of its negative: 2 less 1.5 is the score, 0.5."""
    one, other = (ask(placed, "hires_cam", COLORS, ClassTarget(k)).map.values.sum() for k in (1, 0))
    assert close(one - other, torch.tensor(0.5, dtype=torch.float64))


def test_each_place_is_activation_times_gradient(residual, parts):
    assert close(ask(residual, "hires_cam", picture(), TARGET).map.values, formula(*parts[:2]))


def test_a_layer_that_is_named_is_the_one_that_is_read(residual, eager):
    theirs = formula(*reading(eager, picture(), "stem"))
    assert close(ask(residual, "hires_cam", picture(), TARGET, layer="stem").map.values, theirs)


def test_it_adds_up_to_the_score(tmp_path):
    """On pooling and a linear layer without bias, where every weight is positive, so that nothing is cut off."""
    net = seeded(Residual)
    net.head.weight.data.abs_()
    net.head.bias.data.zero_()
    lifted, score = model(net, tmp_path), net.double()(picture())[0, CLASS].detach()
    assert close(ask(lifted, "hires_cam", picture(), TARGET).map.values.sum(), score)


def test_behind_a_pooling_it_is_grad_cam_and_in_front_of_a_convolution_it_is_not(residual):
    """The gradient of a mean is the same at every place."""
    late, early = (
        [ask(residual, name, picture(), TARGET, **given).map.values for name in ("hires_cam", "grad_cam")]
        for given in ({}, {"layer": "stem"})
    )
    assert close(*late) and not close(*early)
