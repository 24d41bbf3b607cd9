"""Grad-CAM++: positive gradients alone make a channel's weight, each by the paper's alpha of its place."""

import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import CLASS, COLORS, TARGET, Placed, ask, close, model, picture, reading
from tests.nets import Residual, seeded


def formula(activations, grads):
    """The paper's equation 19: second and third derivatives of exp(score), each divided by exp(score)."""
    totals = activations.sum((1, 2), keepdim=True)
    alpha = (grads**2 / (2 * grads**2 + totals * grads**3)).nan_to_num()
    return ((alpha * grads.relu()).sum((1, 2), keepdim=True) * activations).sum(0).relu()


def test_by_hand(placed):
    """Red and green sum to 2 each. A gradient g > 0 weighs g / (2 + 2 g): red 1/4 + 1/3, green 1/4."""
    red, green = COLORS[0, 0], COLORS[0, 1]
    assert close(ask(placed, "grad_cam_plus_plus", COLORS, ClassTarget(1)).map.values, 7 / 12 * red + green / 4)


def test_where_an_alpha_has_no_value_nothing_is_added(tmp_path):
    """Red and green sum to -2 each: a gradient of 1 divides by zero, one of 2 by -2."""
    net = Placed()
    net.maps.weight.data.neg_()
    values = ask(model(net, tmp_path, side=2), "grad_cam_plus_plus", COLORS, ClassTarget(1)).map.values
    assert close(values, (2 / -2 * -COLORS[0, 0]).relu())


def test_channels_are_weighted_by_the_papers_alphas(residual, parts):
    assert close(ask(residual, "grad_cam_plus_plus", picture(), TARGET).map.values, formula(*parts[:2]))


def test_a_layer_that_is_named_is_the_one_that_is_read(residual, eager):
    theirs = formula(*reading(eager, picture(), "stem"))
    assert close(ask(residual, "grad_cam_plus_plus", picture(), TARGET, layer="stem").map.values, theirs)


def test_the_alphas_are_made_of_derivatives_of_the_scores_exponential(placed):
    """The first three at each place of the maps, by automatic differentiation."""
    maps, scored = COLORS[0, :2].flatten(), torch.tensor(Placed.WEIGHTS, dtype=torch.float64).flatten()

    def derivatives(place):
        def along(t):
            return (scored @ (maps + t * place)).exp()

        first, second = torch.func.grad(along), torch.func.grad(torch.func.grad(along))
        zero = torch.zeros((), dtype=torch.float64)
        return torch.stack([first(zero), second(zero), torch.func.grad(second)(zero)])

    first, second, third = torch.stack([derivatives(place) for place in torch.eye(8).double()], 1).view(3, 2, 4)
    alpha = second / (2 * second + maps.view(2, 4).sum(1, keepdim=True) * third)
    weights = (alpha * first.relu()).nan_to_num().sum(1) / (scored @ maps).exp()
    theirs = (weights.view(2, 1) * maps.view(2, 4)).sum(0).view(2, 2)
    assert close(ask(placed, "grad_cam_plus_plus", COLORS, ClassTarget(1)).map.values, theirs)


def test_without_a_positive_gradient_nothing_is_shown(tmp_path):
    net = seeded(Residual)
    net.head.weight.data[CLASS] = -net.head.weight.data[CLASS].abs()
    assert not bool(ask(model(net, tmp_path), "grad_cam_plus_plus", picture(), TARGET).map.values.any())
