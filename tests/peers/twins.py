"""The eager network behind a file, the same pixels in front of it, and how far two results may lie apart."""

from dataclasses import dataclass, field

import torch
from torch import nn

from lightwell_server.catalog import catalog
from lightwell_server.models.store import Model
from lightwell_server.target import ClassTarget
from tests.drive import drive

NETS = ("resnet18", "squeezenet1_1", "mobilenet_v2")
SCRIPTED = [f"{name}-scripted" for name in NETS]
MIXED = ["resnet18-scripted", "squeezenet1_1-pt2", "mobilenet_v2-traced"]
"""Every network and every form once, for what takes longer."""
SIDE = 64

# Layers of each network from fine to coarse. An in-place ReLU follows most of them: what is read must be what was
# there before it.
LAYERS = {
    "resnet18": ("bn1", "layer2.0.conv2", "layer4"),
    "squeezenet1_1": ("features.0", "features.6.expand3x3", "features.12"),
    "mobilenet_v2": ("features.0.1", "features.7.conv.1.0", "features.18"),
}


class Twin(nn.Module):
    """The network as it was before the export, taking pixels in [0, 1].

    Its mean and deviation are rounded to float32 as the file's graph keeps them. They are not called `mean` and
    `std`, by which torchattacks would take the network for one that is fed normalised pixels.
    """

    def __init__(self, net, card):
        super().__init__()
        self.net = net
        for name, values in (("zero", card.input.mean), ("unit", card.input.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1))
        # Hooks on a layer before an in-place ReLU would see what the ReLU left of it.
        for module in net.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.net((x - self.zero) / self.unit)

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
    model: Model
    twin: Twin
    image: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.image = picture(0).to(self.model.graph.dtype)

    @property
    def top(self):
        """The twin's first class for the image."""
        return int(self.twin(self.image).argmax(1))

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
