"""Grad-CAM: each channel is weighted by its mean gradient, over the places alone."""

import pytest
import torch

from lightwell_server.contract import ClassTarget, ContrastTarget
from tests.methods.asking import CLASS, COLORS, TARGET, Tokens, ask, close, model, picture, reading, refused
from tests.nets import Residual, seeded


def formula(activations, grads):
    return (grads.mean((1, 2), keepdim=True) * activations).sum(0)


def test_by_hand(placed):
    """The mean weights are 0.5 of red and -1 of green."""
    whole = torch.tensor([[0.25, -0.75], [-0.25, -0.25]], dtype=torch.float64)
    seen = ask(placed, "grad_cam", COLORS, ClassTarget(1), relu=False).map
    assert close(seen.values, whole) and seen.signed and seen.enlargement == "bilinear"
    seen = ask(placed, "grad_cam", COLORS, ClassTarget(1)).map
    assert close(seen.values, whole.relu()) and not seen.signed
    assert close(ask(placed, "grad_cam", COLORS, ClassTarget(0)).map.values, (-whole).relu())


def test_channels_are_weighted_by_their_mean_gradients(residual, parts):
    assert close(ask(residual, "grad_cam", picture(), TARGET).map.values, formula(*parts[:2]).relu())


@pytest.mark.parametrize("layer", ["stem", "conv"])
def test_a_layer_that_is_named_is_the_one_that_is_read(residual, eager, layer):
    theirs = formula(*reading(eager, picture(), layer))
    assert close(ask(residual, "grad_cam", picture(), TARGET, layer=layer, relu=False).map.values, theirs)
    assert close(ask(residual, "grad_cam", picture(), TARGET, layer=layer).map.values, theirs.relu())


def test_the_cards_layer_comes_before_the_models(tmp_path, eager):
    named = model(seeded(Residual), tmp_path, layers={"grad_cam": "stem"})
    assert close(
        ask(named, "grad_cam", picture(), TARGET).map.values, formula(*reading(eager, picture(), "stem")).relu()
    )


def test_a_probability_has_a_gradient_of_its_own(residual, eager):
    """By the chain rule: p_c (dS_c - sum_k p_k dS_k)."""
    image, shares = picture(), eager(picture())[0].softmax(0).detach()
    maps = torch.stack([ask(residual, "grad_cam", image, ClassTarget(k), relu=False).map.values for k in range(5)])
    theirs = shares[CLASS] * (maps[CLASS] - (shares.view(5, 1, 1) * maps).sum(0))
    assert close(ask(residual, "grad_cam", image, ClassTarget(CLASS, "probability"), relu=False).map.values, theirs)


def test_without_negative_values_cut_off_a_contrast_is_the_difference_of_two_maps(residual):
    one, other = (ask(residual, "grad_cam", picture(), ClassTarget(k), relu=False).map.values for k in (1, 4))
    assert close(ask(residual, "grad_cam", picture(), ContrastTarget(1, 4), relu=False).map.values, one - other)


def test_the_class_token_counts_neither_as_a_place_nor_in_the_means(tmp_path):
    net, image = seeded(Tokens), picture()
    lifted = model(net, tmp_path)
    tokens, grads = reading(net.double(), image, "norm")
    assert tokens.shape == (17, 8) and bool(grads[0].any())
    weights = grads[1:].mean(0)
    theirs = (tokens[1:] @ weights).view(4, 4)
    assert close(ask(lifted, "grad_cam", image, TARGET, relu=False).map.values, theirs)


def test_a_relu_is_a_choice_of_two(residual):
    assert refused(residual, "grad_cam", relu="maybe") == ["grad_cam.relu"]
