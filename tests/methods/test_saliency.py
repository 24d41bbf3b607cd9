"""Saliency: of linear models the map is made of their weights, in units of pixels whatever the model's own scale."""

import pytest
import torch

from lightwell_server.contract import ChannelTarget, ClassTarget, ContrastTarget
from tests.methods.asking import ask, close, model, picture, refused
from tests.nets import Linear, seeded

UNIT = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64).view(3, 1, 1)


@pytest.fixture(scope="module")
def net():
    return seeded(Linear).double()


@pytest.fixture(scope="module")
def weights(net):
    """The gradient of each class's score, [3, 3, 16, 16]."""
    return net.fc.weight.detach().view(3, 3, 16, 16)


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(Linear), tmp_path_factory.mktemp("saliency"))


def gradient(lifted, target, image=None):
    image = picture() if image is None else image
    return ask(lifted, "saliency", image, target, magnitude=False, channels="none").tensors["gradient"]


@pytest.mark.parametrize("index", range(3))
def test_a_linear_models_map_is_its_weights_magnitude(lifted, weights, index):
    seen = ask(lifted, "saliency", picture(), ClassTarget(index))
    assert close(seen.map.values, weights[index].abs().amax(0)) and not seen.tensors
    assert not seen.map.signed and seen.map.enlargement == "none"


def test_with_its_sign_the_colour_of_the_largest_magnitude_is_shown(lifted, weights):
    seen = ask(lifted, "saliency", picture(), ClassTarget(1), magnitude=False).map
    largest = weights[1].gather(0, weights[1].abs().argmax(0, keepdim=True))[0]
    assert close(seen.values, largest) and seen.signed and float(seen.values.min()) < 0 < float(seen.values.max())


def test_colours_are_summed_with_or_without_their_signs(lifted, weights):
    for magnitude, values in ((False, weights[1]), (True, weights[1].abs())):
        seen = ask(lifted, "saliency", picture(), ClassTarget(1), magnitude=magnitude, channels="sum")
        assert close(seen.map.values, values.sum(0))


def test_without_a_reduction_every_colour_comes_along(lifted, weights):
    assert close(gradient(lifted, ClassTarget(1)), weights[1])
    seen = ask(lifted, "saliency", picture(), ClassTarget(1), channels="none")
    assert close(seen.tensors["gradient"], weights[1].abs()) and close(seen.map.values, weights[1].abs().amax(0))


def test_it_is_a_slope_over_pixels_not_over_normalised_values(tmp_path, weights):
    card = {"size": (16, 16), "mean": (0.5, 0.5, 0.5), "std": UNIT.flatten().tolist()}
    lifted = model(seeded(Linear), tmp_path, input=card)
    assert close(gradient(lifted, ClassTarget(2)), weights[2] / UNIT)


def test_of_a_model_of_luminance_each_colour_has_its_share(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2)).eval()
    card = {"size": (16, 16), "channels": 1, "mean": (0.0,), "std": (1.0,)}
    share = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    theirs = share * net[1].weight.detach().double()[1].view(1, 16, 16)
    assert close(gradient(model(net, tmp_path, input=card), ClassTarget(1)), theirs)


def test_an_unset_target_is_the_highest_class_of_the_image(lifted, net, weights):
    for index in range(3):
        image = 0.5 + 2 * weights[index][None]
        assert int(net(image).argmax()) == index
        assert close(gradient(lifted, None, image), weights[index])


def test_probabilities_and_contrasts_by_the_chain_rule(lifted, net, weights):
    shares = net(picture())[0].softmax(0).detach()
    mean = (shares.view(3, 1, 1, 1) * weights).sum(0)
    assert close(gradient(lifted, ClassTarget(1, "probability")), shares[1] * (weights[1] - mean))
    assert close(gradient(lifted, ClassTarget(1, "log_probability")), weights[1] - mean)
    assert close(gradient(lifted, ContrastTarget(0, 2)), weights[0] - weights[2])


def test_a_neuron_sees_its_own_window_alone(residual, eager):
    """The stem's convolution is 3 x 3: its kernel is the gradient there."""
    theirs = torch.zeros(3, 16, 16, dtype=torch.float64)
    theirs[:, 4:7, 8:11] = eager.stem.weight[6].detach()
    assert close(gradient(residual, ChannelTarget("stem", 6, (5, 9))), theirs)


def test_words_that_it_does_not_know_are_refused(lifted):
    assert refused(lifted, "saliency", channels="mean", magnitude="maybe") == [
        "saliency.magnitude",
        "saliency.channels",
    ]
