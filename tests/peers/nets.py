"""The networks that are compared, with random weights that let a picture through."""

from functools import cache

import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.vision_transformer import VisionTransformer

from tests.peers.files import SIDE
from tests.peers.twins import picture

CLASSES = 10
NARROW = 64


def vgg19_bn():
    """Its hidden linear layers are narrow: at their full width they alone would weigh a gigabyte in float64."""
    net = torchvision.models.vgg19_bn(num_classes=CLASSES)
    widths = (net.classifier[0].in_features, NARROW, NARROW, CLASSES)
    for place, inputs, outputs in zip((0, 3, 6), widths[:-1], widths[1:], strict=True):
        net.classifier[place] = nn.Linear(inputs, outputs)
    return net


def vit_b_16():
    """Twelve blocks of twelve heads on patches of 16 pixels, at a quarter of the width."""
    return VisionTransformer(SIDE, 16, num_layers=12, num_heads=12, hidden_dim=192, mlp_dim=768, num_classes=CLASSES)


BUILT = {"vgg19_bn": vgg19_bn, "vit_b_16": vit_b_16}


@cache
def lively(name):
    """A network with random weights and biases whose batch norms hold the statistics of random pictures: with any
    others the picture would hardly reach the last layer. To be copied before anything of it is changed."""
    torch.manual_seed(0)
    net = BUILT[name]() if name in BUILT else getattr(torchvision.models, name)(num_classes=CLASSES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.1)
        if isinstance(module, CNBlock):
            module.layer_scale.data.uniform_(0.5, 1.5)  # a millionth to begin with
    if isinstance(net, VisionTransformer):
        net.heads.head.weight.data.normal_(0, 0.1)  # zero to begin with
    with torch.no_grad():
        net.train()(torch.cat([(picture(seed).float() - 0.45) / 0.225 for seed in range(8)]))
    return net.eval()
