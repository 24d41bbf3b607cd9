"""Input times gradient: of a linear model without bias the map sums to the score."""

import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import ask, close, model, picture
from tests.nets import Linear, seeded


def unbiased():
    net = seeded(Linear)
    net.fc.bias.data.zero_()
    return net


def test_a_linear_models_score_is_the_maps_sum(tmp_path):
    net, image = unbiased(), picture()
    lifted, score = model(net, tmp_path), net.double()(image)[0, 1].detach()
    for scale in ("model", "pixels"):  # pixels are what this model takes
        seen = ask(lifted, "input_x_gradient", image, ClassTarget(1), scale=scale)
        assert seen.map.signed and close(seen.map.values.sum(), score)


def test_the_models_scale_is_that_behind_its_normalisation(tmp_path):
    net, image = unbiased(), picture()
    card = {"size": (16, 16), "mean": (0.5, 0.25, 0.75), "std": (0.5, 0.25, 0.125)}
    lifted = model(net, tmp_path, input=card)
    zero, unit = (torch.tensor(card[name], dtype=torch.float64).view(1, 3, 1, 1) for name in ("mean", "std"))
    score = net.double()((image - zero) / unit)[0, 2].detach()
    seen = ask(lifted, "input_x_gradient", image, ClassTarget(2))
    assert close(seen.map.values.sum(), score)
    pixels = ask(lifted, "input_x_gradient", image, ClassTarget(2), scale="pixels", channels="none")
    model_ = ask(lifted, "input_x_gradient", image, ClassTarget(2), channels="none")
    share = (image - zero)[0] / image[0]
    assert close(model_.tensors["attribution"], pixels.tensors["attribution"] * share)
