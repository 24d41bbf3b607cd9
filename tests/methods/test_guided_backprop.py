"""Guided backprop and the deconvnet exchange every ReLU's backward, however the file writes it, and say so where there
is none."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution, GuidedBackprop
from torch import nn

from lightwell_server.contract import ClassTarget
from lightwell_server.errors import NotApplicable
from tests.methods.asking import ask, close, model, picture
from tests.nets import seeded

FORMS = ("traced", "scripted", "frozen", "pt2")


class Net(nn.Module):
    """Two convolutions with a skip, and three activations, which each kind of network writes in its own way."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)


class Functional(Net):
    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(self.second(x) + x)
        return self.head(torch.relu(x - 0.05).mean((2, 3)))


class InPlace(Net):
    def forward(self, x):
        x = F.relu(self.first(x), inplace=True)
        x = (self.second(x) + x).relu_()
        x = x - 0.05
        return self.head(F.relu_(x).mean((2, 3)))


class Shared(Net):
    """One module used three times."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) + x)
        return self.head(self.relu(x - 0.05).mean((2, 3)))


class Capped(Net):
    def __init__(self):
        super().__init__()
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, x):
        x = self.relu6(self.first(8 * x))
        x = F.relu6(self.second(x) + x)
        return self.head(self.relu6(x - 0.05).mean((2, 3)))


class Hard(Net):
    def __init__(self):
        super().__init__()
        self.hard = nn.Hardtanh(0.0, 6.0)

    def forward(self, x):
        x = self.hard(self.first(8 * x))
        x = F.hardtanh(self.second(x) + x, 0.0, 6.0)
        return self.head(self.hard(x - 0.05).mean((2, 3)))


class Clamped(Net):
    def forward(self, x):
        x = self.first(x).clamp(min=0)
        x = torch.clamp(self.second(x) + x, min=0.0)
        return self.head(torch.clamp_min(x - 0.05, 0).mean((2, 3)))


class Twin(Net):
    """The same sums with a module of its own for each activation, which is what a peer's hooks can see: a ReLU, and
    behind it the upper bound, through which a gradient passes by every rule alike where it does not hold."""

    def __init__(self, cap: float | None, gain: float):
        super().__init__()
        self.cap, self.gain = cap, gain
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x):
        def act(values, i):
            passed = self.acts[i](values)
            return passed if self.cap is None else passed.clamp(max=self.cap)

        x = act(self.first(self.gain * x), 0)
        x = act(self.second(x) + x, 1)
        return self.head(act(x - 0.05, 2).mean((2, 3)))


class Smooth(Net):
    def forward(self, x):
        return self.head(F.gelu(self.first(x)).mean((2, 3)))


NETS = (Functional, InPlace, Shared, Capped, Hard, Clamped)
CLASS = 0
PEERS = {"guided_backprop": GuidedBackprop, "deconvnet": Deconvolution}


def twin(net: nn.Module) -> nn.Module:
    capped = isinstance(net, Capped | Hard)
    twin = Twin(6.0 if capped else None, 8.0 if capped else 1.0)
    twin.load_state_dict(net.state_dict())
    return twin.double().eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", NETS)
def test_every_way_to_write_a_relu_in_every_form(tmp_path, make, form):
    net = seeded(make)
    lifted, image, eager = model(net, tmp_path, form), picture(), twin(net)
    assert close(eager(image).detach(), net.double()(image).detach())
    plain = ask(lifted, "saliency", image, ClassTarget(CLASS), magnitude=False, channels="none").tensors["gradient"]
    for name, peer in PEERS.items():
        ours = ask(lifted, name, image, ClassTarget(CLASS), channels="none").tensors["gradient"]
        theirs = peer(eager).attribute(image.clone().requires_grad_(), target=CLASS)[0].detach()
        assert close(ours, theirs), name
        assert float((ours - plain).abs().max()) > 0.1 * float(plain.abs().max()), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PEERS)
def test_without_a_relu_it_does_not_apply(tmp_path, name, form):
    lifted = model(seeded(Smooth), tmp_path, form)
    with pytest.raises(NotApplicable, match="has no ReLU"):
        ask(lifted, name, picture())


@pytest.mark.parametrize("name", PEERS)
def test_magnitudes_and_colours(tmp_path, name):
    lifted, image = model(seeded(Functional), tmp_path), picture()
    every = ask(lifted, name, image, channels="none")
    grad = every.tensors["gradient"]
    assert every.map.signed and torch.equal(every.map.values.abs(), grad.abs().amax(0))
    assert torch.equal(ask(lifted, name, image, channels="sum").map.values, grad.sum(0))
    bright = ask(lifted, name, image, magnitude=True)
    assert not bright.map.signed and torch.equal(bright.map.values, grad.abs().amax(0))
