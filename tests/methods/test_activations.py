"""Activations are the original network's."""

import pytest
import torch

from tests.methods.asking import ask, close, model, picture
from tests.nets import FORMS, Residual, seeded


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
