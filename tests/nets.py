"""Small networks that the tests export themselves."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.models.lifting.lift import Sample, lift

FORMS = ("traced", "scripted", "pt2")
"""The forms that know their modules; `export` also makes `frozen` files, which have lost them."""
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Residual(nn.Module):
    """Convolutions with a skip, batch norm, an in-place ReLU that is used twice, pooling and a linear layer."""

    def __init__(self, classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.conv(x) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Captioned(nn.Module):
    """An image and tokens to scores."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 6, 3)
        self.words = nn.Embedding(7, 6)

    def forward(self, x, tokens):
        return (self.image(x).relu().mean((2, 3)) * self.words(tokens).sum(1)).cumsum(1)


class Linear(nn.Module):
    """Scores that are sums of weighted pixels: the truth is known."""

    def __init__(self, side: int = 16, classes: int = 3):
        super().__init__()
        self.fc = nn.Linear(3 * side * side, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))


def seeded(make, *args, seed: int = 0):
    """A network in eval mode with random weights, and batch norms that do something."""
    torch.manual_seed(seed)
    net = make(*args).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return net


def export(net, form: str, directory: Path, *inputs) -> Path:
    """The network as a file of that form, its batch dynamic."""
    path = directory / f"{type(net).__name__}_{form}.{'pt2' if form == 'pt2' else 'pt'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "traced":
            torch.jit.trace(net, inputs, check_trace=False, strict=False).save(path)  # dicts may come out
        elif form == "scripted":
            torch.jit.script(net).save(path)
        elif form == "frozen":
            torch.jit.freeze(torch.jit.script(net)).save(path)
        else:
            batch = torch.export.Dim("batch", max=1024)  # torch 2.6 exports no slice of one without a limit
            torch.export.save(torch.export.export(net, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)), path)
    return path


def lifted(net, directory: Path, form: str = "scripted", side: int = 16, **sample):
    """The network exported and lifted, with pixels as it takes them."""
    sample = Sample(size=(side, side), **{**PLAIN, **sample})
    return lift(export(net, form, directory, *sample.rows(2)), sample)
