"""The eager network behind a file, the same pixels in front of it, and how far two results may lie apart."""

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.googlenet import BasicConv2d

from lightwell_server.catalog import catalog
from lightwell_server.contract import ClassTarget
from lightwell_server.models.store import Model
from tests.drive import drive
from tests.peers.files import FROZEN, SIDE, layers


class WithModule(BasicConv2d):
    """GoogLeNet's convolution with a module for its ReLU."""

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class WithLastModule(DenseNet):
    """DenseNet with a module for its last ReLU."""

    def forward(self, x):
        return self.classifier(self.relu(self.features(x)).mean((2, 3)))


FUNCTIONAL = {BasicConv2d: WithModule, DenseNet: WithLastModule}


class Clamp(nn.Module):
    """The upper half of a ReLU6."""

    def forward(self, x):
        return x.clamp(max=6)


def with_modules(net):
    """The same function, every ReLU being an nn.ReLU that is not in place: the peers' hooks see no other ReLU, and
    would see of a layer in front of an in-place one what that left of it."""
    for module in list(net.modules()):
        if type(module) in FUNCTIONAL:
            module.__class__ = FUNCTIONAL[type(module)]
            module.relu = nn.ReLU()
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.Sequential(nn.ReLU(), Clamp()))
        if hasattr(module, "inplace"):
            module.inplace = False
    return net


class Twin(nn.Module):
    """The network as it was before the export, taking pixels in [0, 1]; `image` is the one that is explained.

    Its mean and deviation are in double precision, as a graph has them that is computed in that. They are not called
    `mean` and `std`, by which torchattacks would take the network for one that is fed normalised pixels.
    """

    def __init__(self, net, card, image):
        super().__init__()
        self.net = with_modules(net)
        for name, values in (("zero", card.input.mean), ("unit", card.input.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1))
        self.register_buffer("image", image)
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.net((x - self.zero) / self.unit)

    @cached_property
    def top(self):
        """Its first class for the image."""
        return int(self(self.image).argmax(1))

    def seeing(self, image):
        """The same network before another image."""
        other = copy(self)
        other._buffers = {**self._buffers, "image": image}
        other.__dict__.pop("top", None)
        return other

    @property
    def leaf(self):
        """The image, as peers want it that take its gradient."""
        return self.image.clone().requires_grad_()

    def layer(self, name):
        """The module of a layer's name."""
        return self.net.get_submodule(name.partition("@")[0])

    def features(self, x, names):
        """What the layers give, by hooks; `path@i` is the module's call number i, the bare path its last."""
        calls = {name: [] for name in names}
        hooks = [
            self.layer(name).register_forward_hook(lambda m, i, out, n=name: calls[n].append(out)) for name in calls
        ]
        self(x)
        for hook in hooks:
            hook.remove()
        return [calls[name][int(name.partition("@")[2] or -1)] for name in names]


@dataclass(eq=False)
class Case:
    """A lifted file and its twin."""

    name: str
    form: str
    model: Model
    twin: Twin

    def seeing(self, image):
        """The same file before another image."""
        return replace(self, twin=self.twin.seeing(image))

    def named(self, layer):
        """The file's name for a layer of the network."""
        return FROZEN[self.name][layer] if self.form == "frozen" else layer

    @property
    def default(self):
        """The network's name for the layer that is taken where none is asked for."""
        return layers(f"{self.name}-{self.form}")[-1]

    @property
    def image(self):
        """The image that is explained."""
        return self.twin.image

    @property
    def top(self):
        """The twin's first class for the image."""
        return self.twin.top

    def ask(self, name, target=None, image=None, seen=None, seed=0, **given):
        """A method's result; parameters are checked and filled in as for a request."""
        method = catalog()[name]
        parameters = method.parameters(self.model.facts, given, self.model.id)
        image = self.image if image is None else image
        steps = method.start(image, target or ClassTarget(), self.model.facts, seed, parameters)
        return drive(steps, self.model.graph, seen=seen)


def picture(seed, height=SIDE, width=SIDE):
    """An 8-bit picture [1, 3, height, width] as floats."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), generator=rng).double() / 255


def distance(ours, theirs):
    """The largest difference as a share of the largest value."""
    ours, theirs = (torch.as_tensor(value, dtype=torch.float64) for value in (ours, theirs))
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0, "two results of zeros prove nothing"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def agree(ours, theirs, share=1e-8):
    """Fails if two results differ by more than a share of the largest value."""
    assert distance(ours, theirs) <= share
