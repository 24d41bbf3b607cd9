"""Networks of torchvision with random weights that do something in every layer, and their files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lightwell_server.models.lift import Sample

FORMS = ("traced", "scripted", "pt2")
SAMPLE = Sample()
"""Images of 224 x 224 with ImageNet's normalisation."""


class Normalised(nn.Module):
    """A network behind its normalisation, so that it takes pixels in [0, 1]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.mean = nn.Buffer(torch.tensor(SAMPLE.mean).view(1, -1, 1, 1))
        self.std = nn.Buffer(torch.tensor(SAMPLE.std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores of pixels [n, 3, H, W]."""
        scores: Tensor = self.net((pixels - self.mean) / self.std)
        return scores


def network(name: str, seed: int = 0) -> nn.Module:
    """A torchvision model in eval mode. Its batch norms get statistics and weights of their own, and what torchvision
    starts at or near zero (ViT's head, ConvNeXt's scales) is drawn anew, so that no layer could be lost unnoticed."""
    torch.manual_seed(seed)
    net: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                _randomised(module)
        for path, parameter in net.named_parameters():
            if path.endswith("layer_scale"):
                parameter.uniform_(0.1, 0.3)
            elif path.endswith("weight") and not parameter.any():
                parameter.normal_(0, 0.02)
    return net


def _randomised(norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_(0, 0.1)
    norm.running_var.uniform_(0.5, 1.5)
    norm.weight.uniform_(0.5, 1.5)
    norm.bias.normal_(0, 0.1)


def export(net: nn.Module, form: str, path: Path) -> Path:
    """Writes the network as a file of that form, with a dynamic batch."""
    sample = SAMPLE.normalise(SAMPLE.rows(2)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "traced":
            torch.jit.trace(net, sample, check_trace=False).save(str(path))
        elif form == "scripted":
            torch.jit.script(net).save(str(path))
        else:
            program = torch.export.export(net, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            torch.export.save(program, path)
    return path
