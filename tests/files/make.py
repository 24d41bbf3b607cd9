"""Writes the files beside it with the torch that runs it, and what they give under that torch.

The files of torch 1.4.0 were written under Python 3.7, those of 1.7.1 under 3.8 and those of 2.6.0 under 3.11, each by

    python -m venv VENV && VENV/bin/pip install torch==1.4.0 "numpy<1.22" && VENV/bin/python tests/files/make.py

so this script keeps to what all of them understand, and takes nothing from the project. Names say which torch wrote a
file, what it holds and in which form. `torch_1.4.json` and its like hold the scores of each file of one torch on
`pixels`, by height and width: what was loaded from the file gave them, not the network that was written.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

FOLDER = Path(__file__).parent
SIZES = ((16, 16), (24, 20))
"""Height and width of what the files are tried on. All of them are written with the first."""
ROWS = 2


def pixels(height, width):
    """The images [rows, 3, height, width] in [0, 1] that the scores are of, the same under every torch; the second is
    darker."""
    numbers = torch.arange(ROWS * 3 * height * width, dtype=torch.int64)
    rows = ((numbers * numbers) % 1009).float().div(1008).reshape(ROWS, 3, height, width)
    return rows * torch.tensor([1.0, 0.5]).view(ROWS, 1, 1, 1)


class Network(nn.Module):
    """An image to features [n, 4, height, width], what `middle` makes of them, and five scores."""

    def __init__(self, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(channels, 5)

    def middle(self, x):
        return x

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.middle(x).mean([2, 3]))


class Classifier(nn.Module):
    """What most files hold: convolutions, pooling, flatten and a linear layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.flatten(self.pool(F.relu(self.features(x))), 1)
        return F.softmax(self.head(self.drop(x)), dim=1)


class Shuffle(Network):
    """Channels change places by a size that is divided, as in ShuffleNet; they are weighted, so that places matter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1))

    def middle(self, x):
        n, c, height, width = x.size()
        x = x.view(n, 2, c // 2, height, width).transpose(1, 2).contiguous()
        return x.view(n, c, height, width) * self.weights


class Padded(Network):
    """A smaller picture is padded by a difference of sizes to the larger one beside it, as in U-Nets."""

    def __init__(self):
        super().__init__(8)

    def middle(self, x):
        small = F.max_pool2d(x, 3)
        down, across = x.size(2) - small.size(2), x.size(3) - small.size(3)
        small = F.pad(small, [across // 2, across - across // 2, down // 2, down - down // 2])
        return torch.cat([x, small], 1) * x[:, :1]


class Upscaled(Network):
    """Interpolation by factors, a whole one and a broken one."""

    def middle(self, x):
        large = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
        return F.interpolate(large, scale_factor=1.5, mode="nearest") ** 2


class Fixed(Network):
    """The number of rows is written into a shape."""

    def middle(self, x):
        return x.reshape(ROWS, 4, -1, 1) * 2


class Written(Network):
    """A number is written into a slice, another is changed in place."""

    def middle(self, x):
        y = x.clone()
        y[:, 0] = 0.5
        y[:, 1:3, 2:].mul_(2)
        return y


class Patches(Network):
    """Squares of pixels become channels and are weighted, their sizes multiplied and divided as einops does."""

    def __init__(self):
        super().__init__(16)

    def middle(self, x):
        n, c, height, width = x.shape
        x = x.reshape(n, c, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
        x = x.reshape(n, c * 4, (height // 2) * (width // 2))
        return (x * x).unsqueeze(3)


class Attention(nn.Module):
    """Patches as tokens with a class token in front, and one layer of self-attention."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1)
        n, tokens = x.size(0), x.size(1)
        q, k, v = self.qkv(self.norm(x)).reshape(n, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        shares = torch.softmax(q @ k.transpose(2, 3) / 2.0, dim=3)
        x = x + (shares @ v).transpose(1, 2).reshape(n, tokens, 8)
        return self.head(x[:, 0])


OLD = {
    "traced": (Classifier, Shuffle, Padded, Upscaled, Patches, Fixed),
    "scripted": (Upscaled, Written),
}
NEW = {
    "traced": (Patches,),
    "scripted": (Written,),
    "exported": (Classifier, Written, Attention),
    "decomposed": (Classifier, Written),
}


def made(network):
    """One in eval mode, its batch norms as if trained."""
    torch.manual_seed(0)
    net = network().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def written(net, form, path):
    """Writes the network and returns what a reader of the file calls."""
    rows = pixels(*SIZES[0])
    if form == "traced":
        torch.jit.trace(net, rows).save(str(path))
    elif form == "scripted":
        torch.jit.script(net).save(str(path))
    else:
        shapes = ({0: torch.export.Dim("batch", max=1024)},)
        program = torch.export.export(net, (rows,), dynamic_shapes=shapes)
        torch.export.save(program if form == "exported" else program.run_decompositions(), path)
        return torch.export.load(path).module()
    return torch.jit.load(str(path))


def main():
    version = "torch_" + ".".join(torch.__version__.split(".")[:2])
    scores = {}
    for form, networks in (NEW if hasattr(torch, "export") else OLD).items():
        for network in networks:
            name = "{}_{}_{}.{}".format(
                version, network.__name__.lower(), form, "pt2" if form in ("exported", "decomposed") else "pt"
            )
            run = written(made(network), form, FOLDER / name)
            scores[name] = {}
            for height, width in SIZES if name.endswith("pt") else SIZES[:1]:
                with torch.no_grad():
                    given = run(pixels(height, width)).tolist()
                scores[name][f"{height}x{width}"] = [[round(score, 7) for score in row] for row in given]
    lines = [f'"{name}": {json.dumps(given)}' for name, given in scores.items()]
    (FOLDER / (version + ".json")).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
