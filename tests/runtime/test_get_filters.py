"""GetFilters: the weights of layers, whatever the form of the file, through real servers of both kinds."""

import numpy as np
import pytest
import torch
from torch import nn

from lightwell import Client, InvalidArgumentError, Neuron, NotFoundError, Saliency
from lightwell.images import to_array
from lightwell.v1 import explain_pb2
from lightwell_server.local import Local
from lightwell_server.models.card import Card
from tests.nets import FORMS, Residual, export, seeded
from tests.serving import served_as_is

CARD = "[input]\nsize = [16, 16]\nmean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\n"


class Plain(nn.Module):
    """Without a batch norm, which a frozen file's convolution would swallow."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 6, 1, bias=False), nn.ReLU()
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Product(nn.Module):
    """A linear layer that is no module, whose weights stand the other way round."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight


def test_weights_of_a_product_that_is_no_module():
    net, card = seeded(Product), Card.model_validate({"input": {"size": (16, 16)}})
    with Local(net, card) as local:
        assert np.array_equal(local.filters("matmul_0").weights, net.weight.detach().T.numpy())


@pytest.fixture(scope="module", params=["0", "1"], ids=["one process", "a worker"])
def client(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("filters")
    for net in (Residual, Plain):
        for form in (*FORMS, "frozen"):
            place = root / f"{net.__name__.lower()}_{form}" / "1"
            place.mkdir(parents=True)
            made = export(seeded(net), form, place, torch.rand(2, 3, 16, 16))
            made.rename(place / f"model{made.suffix}")
            (place / "card.toml").write_text(CARD)
    with served_as_is(root, "--workers", request.param) as server, Client(server.address) as client:
        yield client


def weights(client, model, layer=""):
    told = client.filters(layer, model=model).message
    return told, to_array(told.weights)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_the_networks(client, form):
    net = seeded(Plain)
    for layer, theirs in {"body.0": net.body[0], "body.2": net.body[2], "head": net.head}.items():
        told, ours = weights(client, f"plain_{form}", layer)
        assert np.array_equal(ours, theirs.weight.detach().numpy()) and told.layer == layer
    told, first = weights(client, f"plain_{form}")
    assert (told.model, told.version, told.layer) == (f"plain_{form}", "1", "body.0") and first.shape == (4, 3, 3, 3)


def test_of_a_frozen_file_by_the_names_that_it_has_left(client):
    model = client.model("plain_frozen")
    named = [layer.name for layer in model.layers if layer.type == "conv2d"]
    net = seeded(Plain)
    assert np.array_equal(weights(client, "plain_frozen", named[1])[1], net.body[2].weight.detach().numpy())


def test_a_neurons_gradient_is_its_filter(client):
    """What the first layer is most moved by is what its filter looks like."""
    image, method = np.full((16, 16, 3), 99, np.uint8), Saliency(magnitude=False)
    method.channels = explain_pb2.Saliency.REDUCTION_NONE
    neuron = Neuron(layer="stem", channel=3, row=8, column=5)
    seen = client.explain(image, method, model="residual_scripted", target=neuron, fit="exact")
    own = weights(client, "residual_scripted", "stem")[1][3]
    assert np.allclose(seen.tensors["gradient"][:, 7:10, 4:7], own, atol=1e-6)


BAD = {
    "stm": "the model has no layer 'stm'",
    "relu": "relu@1 is no convolution and no linear layer",
}


@pytest.mark.parametrize("layer", BAD)
def test_what_has_no_weights_is_told(client, layer):
    with pytest.raises(InvalidArgumentError, match=BAD[layer]):
        client.filters(layer, model="residual_traced")


def test_a_container_names_what_is_inside(client):
    with pytest.raises(InvalidArgumentError, match=r"body is no convolution.*name one inside of it: body\.0, body\.2"):
        client.filters("body", model="plain_traced")


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(NotFoundError):
        client.filters("stem", model="nobody")
