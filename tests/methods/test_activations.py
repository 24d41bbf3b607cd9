"""Activations and embeddings are the original network's."""

import pytest
import torch
from torch import nn

from lightwell_server.errors import InvalidArgument
from tests.methods.asking import ask, close, model, picture
from tests.methods.test_cams import Tokens
from tests.nets import FORMS, Residual, seeded


class Convolutional(nn.Module):
    """No linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Squeezing(nn.Module):
    """Its only linear layer weighs channels; a convolution comes behind it."""

    def __init__(self):
        super().__init__()
        self.conv, self.squeeze, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        x = self.conv(x)
        x = x * self.squeeze(x.mean((2, 3))).sigmoid()[..., None, None]
        return self.head(x).mean((2, 3))


def test_a_linear_layer_in_front_of_a_convolution_gets_no_embedding(tmp_path):
    with pytest.raises(InvalidArgument, match="no linear layer; name the layer"):
        ask(model(seeded(Squeezing), tmp_path), "embedding", picture())


@pytest.mark.parametrize("form", FORMS)
def test_activations_are_the_layers(tmp_path, form):
    net, image = seeded(Residual), picture()
    lifted = model(net, tmp_path, form)
    theirs = net.double().stem(image)[0].detach()
    seen = ask(lifted, "activations", image, layer="stem")
    assert close(seen.tensors["activations"], theirs)
    assert seen.tensors["channels"].tolist() == list(range(8)) and seen.map is None
    some = ask(lifted, "activations", image, layer="stem", max_channels=3).tensors
    assert some["channels"].tolist() == theirs.mean((1, 2)).topk(3).indices.tolist()
    assert torch.equal(some["activations"], seen.tensors["activations"][some["channels"].long()])


@pytest.mark.parametrize("form", (*FORMS, "frozen"))
def test_an_embedding_is_what_the_last_linear_layer_gets(tmp_path, form):
    net, image = seeded(Residual), picture()
    lifted = model(net, tmp_path, form)
    given = []
    net.double().head.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    net(image)
    ours = ask(lifted, "embedding", image).tensors["embedding"]
    tolerance = 1e-6 if form == "frozen" else 1e-8  # freezing folds the batch norm in single precision
    assert float((ours - given[0][0]).abs().max()) <= tolerance * float(given[0].abs().max())


def test_of_a_transformer_it_is_the_class_token(tmp_path):
    net, image = seeded(Tokens), picture()
    given = []
    lifted = model(net, tmp_path, "scripted")
    net.double().head.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    net(image)
    assert close(ask(lifted, "embedding", image).tensors["embedding"], given[0][0].detach())


def test_of_a_layer_it_is_the_mean_over_positions(tmp_path):
    net, image = seeded(Convolutional), picture()
    lifted = model(net, tmp_path)
    with pytest.raises(InvalidArgument, match="no linear layer; name the layer"):
        ask(lifted, "embedding", image)
    mean = net.double().conv(image)[0].mean((1, 2)).detach()
    assert close(ask(lifted, "embedding", image, layer="conv").tensors["embedding"], mean)
    tokens = model(seeded(Tokens), tmp_path)
    assert ask(tokens, "embedding", image, layer="norm").tensors["embedding"].shape == (8,)
