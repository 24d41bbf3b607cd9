"""Embedding: what the original network's last linear layer gets, or the mean of a layer over its positions."""

import pytest
import torch
from torch import nn

from lightwell_server.errors import InvalidArgument
from tests.methods.asking import Tokens, ask, close, model, picture, reading, refused
from tests.nets import FORMS, Linear, Residual, seeded


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


def test_of_one_linear_layer_alone_it_is_the_pixels_as_the_model_takes_them(tmp_path):
    image, card = picture(), {"size": (16, 16), "mean": (0.25,) * 3, "std": (0.5,) * 3}
    seen = ask(model(seeded(Linear), tmp_path, input=card), "embedding", image)
    assert close(seen.tensors["embedding"], (image.flatten() - 0.25) / 0.5)
    assert seen.map is None and seen.views["embedding"].kind == "vector"


def test_of_several_linear_layers_the_last_one_counts(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 7), nn.ReLU(), nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    lifted, image = model(net, tmp_path), picture()
    assert close(ask(lifted, "embedding", image).tensors["embedding"], net.double()[:5](image)[0].detach())
    assert close(ask(lifted, "embedding", image, layer="2").tensors["embedding"], net[:3](image)[0].detach())
    assert close(ask(lifted, "embedding", image, layer="5").tensors["embedding"], net(image)[0].detach())


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


def test_of_a_layer_of_tokens_it_is_the_mean_over_all_of_them(tmp_path):
    """The class token is one of them."""
    net, image = seeded(Tokens), picture()
    lifted = model(net, tmp_path)
    tokens, _ = reading(net.double(), image, "norm")
    assert tokens.shape == (17, 8)
    assert close(ask(lifted, "embedding", image, layer="norm").tensors["embedding"], tokens.mean(0))


def test_the_layer_is_what_a_refusal_names(tmp_path, residual):
    assert refused(residual, "embedding", layer="conf") == ["embedding.layer"]
    assert refused(model(seeded(Convolutional), tmp_path), "embedding") == ["embedding.layer"]
