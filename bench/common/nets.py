"""Networks of torchvision, of timm and of our own, with random weights that do something in every layer, and their
files."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.common.idioms import IDIOMS, SIZE
from lightwell_server.models.lifting.lift import Sample
from lightwell_server.models.store import Model, load_version

# fmt: off
TORCHVISION = (
    "alexnet", "vgg16", "vgg19_bn", "squeezenet1_1", "resnet18", "resnet50", "densenet121", "mobilenet_v2",
    "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "shufflenet_v2_x1_0",
    "mnasnet0_5", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
)
TIMM = (
    "resnetv2_50", "resnest14d", "seresnext26d_32x4d", "legacy_seresnet18", "repvgg_a0", "regnetz_b16",
    "dm_nfnet_f0", "efficientnetv2_rw_t", "mobilevit_xxs", "mobileone_s0", "fastvit_t8", "ghostnet_050",
    "hrnet_w18_small", "dla34", "dpn48b", "legacy_xception", "coatnet_nano_rw_224", "levit_128s", "convnextv2_atto",
    "deit_tiny_patch16_224", "beit_base_patch16_224", "cait_xxs24_224", "xcit_nano_12_p16_224", "pvt_v2_b0",
    "poolformer_s12", "edgenext_xx_small", "davit_tiny", "swinv2_cr_tiny_ns_224", "eva02_tiny_patch14_224",
    "tiny_vit_5m_224",
    "hiera_tiny_224", "deit_tiny_distilled_patch16_224", "vit_little_patch16_reg4_gap_256", "crossvit_9_240",
    "twins_svt_small", "visformer_tiny", "convit_tiny", "pit_ti_224", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224",
    "sequencer2d_s", "volo_d1_224", "focalnet_tiny_srf", "efficientformer_l1", "efficientformerv2_s0",
    "mobilenetv4_conv_small_035", "repvit_m0_9", "repghostnet_050", "starnet_s050", "inception_next_atto",
    "caformer_s18", "gcvit_xxtiny", "nest_tiny", "skresnet18", "ese_vovnet19b_slim", "halonet26t", "lambda_resnet26t",
    "rexnet_100", "mixnet_s", "tinynet_e", "mambaout_femto", "swiftformer_xs", "shvit_s1", "fasternet_t0", "hgnetv2_b0",
    "botnet26t_256", "nextvit_small", "efficientvit_b0", "mvitv2_tiny",
)
# fmt: on
SCRIPTS = tuple(IDIOMS)
FAMILIES = {"torchvision": TORCHVISION, "timm": TIMM, "scripts": SCRIPTS}
FORMS = {
    "torchvision": ("traced", "scripted", "frozen", "pt2"),
    "timm": ("traced", "pt2"),
    "scripts": ("scripted", "frozen"),
}
"""The forms of files that the networks of a family are written as."""
SIZES = {"inception_v3": 299, "swin_v2_t": 256}
"""Sides of torchvision's images that are not 224."""
ENDLESS = ("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t")
"""Networks of torchvision whose export takes no end with a free height and width."""
COMPUTES = ("swin_v2_t", "swinv2_cr_tiny_ns_224")
"""Networks that compute position biases from weights alone: lifting does that once, in the file's precision."""
SAMPLE = Sample()
"""Images of 224 x 224 with ImageNet's normalisation."""
CLASS = 3
"""The class whose score is differentiated."""

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


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


@dataclass
class Original:
    """A network, to be run in copies, for some keep what they once computed; the images that it takes; whether its
    `.pt2` file takes any height and width."""

    name: str
    net: nn.Module
    sample: Sample
    free: bool
    _doubles: dict[tuple[tuple[int, int], torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Where the network is from."""
        return next(family for family, names in FAMILIES.items() if self.name in names)

    @property
    def computes(self) -> bool:
        """Whether it computes weights from weights."""
        return self.name in COMPUTES

    def copied(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A copy of the network that computes in that type."""
        return copy.deepcopy(self.net).to(dtype)

    def double(self, size: tuple[int, int], constants: torch.dtype) -> tuple[Tensor, Tensor]:
        """In double precision the scores [2, classes] of random images, and the gradient [2, 3, height, width] of one
        class's for their pixels. The constants of the normalisation are as precise as `constants`."""
        if (size, constants) not in self._doubles:
            pixels = self.pixels(size).requires_grad_()
            scores = first(self.copied(torch.float64)(self.sample.normalise(pixels, constants)))
            (gradient,) = torch.autograd.grad(scores[:, CLASS].sum(), pixels)
            self._doubles[size, constants] = scores.detach(), gradient
        return self._doubles[size, constants]

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """The random images [2, 3, height, width] that are compared in double precision. They are two, for torch's own
        gradient of a batch norm in eval mode is wrong for some layouts of a single row."""
        return self.sample.rows(2, size, seed=9, dtype=torch.float64)[0]


def original(name: str) -> Original:
    """A network by its name, at its default size."""
    net = network(name)
    if name in TIMM:
        config: Any = net.pretrained_cfg
        return Original(name, net, Sample(config["input_size"][1:], config["mean"], config["std"]), free=False)
    if name in SCRIPTS:
        return Original(name, net, Sample(SIZE), free=False)
    side = SIZES.get(name, 224)
    return Original(name, net, Sample((side, side)), free=name not in ENDLESS)


def network(name: str, seed: int = 0) -> nn.Module:
    """A model in eval mode. Its norms get statistics and weights of their own, and what starts at a constant or next
    to zero (heads, biases, layer scales) is drawn anew, so that no layer could be lost unnoticed."""
    torch.manual_seed(seed)
    net = _made(name).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, NORMS):
                _randomised(module)
        for parameter in net.parameters():
            _redrawn(parameter)
    return net


def _made(name: str) -> nn.Module:
    if name in TIMM:
        import timm

        net: nn.Module = timm.create_model(name)
        return net
    if name in SCRIPTS:
        return IDIOMS[name]()
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **slow)


def _randomised(norm: Any) -> None:  # noqa: ANN401 - each of NORMS has some of these
    if getattr(norm, "running_mean", None) is not None:
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    if norm.weight is not None:
        norm.weight.uniform_(0.5, 1.5)
    if norm.bias is not None:
        norm.bias.normal_(0, 0.1)


def _redrawn(parameter: Tensor) -> None:
    """Draws a parameter anew that is a constant, or next to zero."""
    low, high = (float(value) for value in parameter.aminmax())
    if low == high and abs(low) > 0.05:
        parameter.mul_(torch.rand_like(parameter) + 0.5)
    elif low == high != 0:
        parameter.uniform_(0.1, 0.3)
    elif max(-low, high) < 1e-4:
        parameter.normal_(0, 0.02)


def first(output: object) -> Tensor:
    """The first tensor of what a network returns: its scores."""
    return next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))


def export(net: nn.Module, form: str, path: Path, sample: Sample = SAMPLE, free: bool = False) -> Path:
    """Writes the network as a file of that form, in its own type of numbers and with a dynamic batch; a `.pt2` file
    also with any height and width if they are `free`."""
    images = sample.normalise(sample.rows(2, dtype=next(net.parameters()).dtype)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "pt2":
            sizes = {0: torch.export.Dim("batch")}
            if free:
                sizes |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
            torch.export.save(torch.export.export(net, (images,), dynamic_shapes=(sizes,)), path)
        else:
            _scripted(net, form, images).save(str(path))
    return path


def deployed(name: str, repository: Path) -> tuple[nn.Module, Model]:
    """A network of torchvision, and the model that is loaded from its scripted file in a repository."""
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    net = network(name)
    export(net, "scripted", directory / "model.pt")
    return net, load_version(directory, repository)


def _scripted(net: nn.Module, form: str, images: Tensor) -> torch.jit.ScriptModule:
    if form == "traced":
        return torch.jit.trace(net, images, check_trace=False)
    script = torch.jit.script(net)
    return torch.jit.freeze(script) if form == "frozen" else script
