"""Files that people bring by mistake, and the right ones, of three networks."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

Writer = Callable[["Network", Path], None]
"""Writes a network, or what somebody takes for one, as a file."""
Part = Callable[["Network"], nn.Module]


@dataclass(frozen=True)
class Network:
    """A network by its name, which takes images of one size alone: `features` and `head` for so many channels."""

    name: str
    side: int
    classes: int
    parts: Callable[[int], tuple[nn.Module, nn.Module]]

    def made(self, channels: int = 3) -> nn.Module:
        """The same network at each call, in eval mode."""
        torch.manual_seed(0)
        features, head = self.parts(channels)
        return nn.Sequential(features, nn.Flatten(), head).eval()

    def images(self, count: int = 2, channels: int = 3) -> Tensor:
        """Random images that it takes."""
        return torch.rand(count, channels, self.side, self.side, generator=torch.Generator().manual_seed(0))


def _cnn(channels: int) -> tuple[nn.Module, nn.Module]:
    def block(given: int, made: int) -> list[nn.Module]:
        return [nn.Conv2d(given, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU(), nn.MaxPool2d(2)]

    features = nn.Sequential(*block(channels, 32), *block(32, 64), nn.AvgPool2d(4))
    return features, nn.Linear(64 * 4 * 4, 10)


def _resnet(channels: int) -> tuple[nn.Module, nn.Module]:
    net = torchvision.models.resnet18()
    net.conv1, net.avgpool = nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.AvgPool2d(7)
    *features, head = net.children()
    return nn.Sequential(*features), head


def _vit(channels: int) -> tuple[nn.Module, nn.Module]:
    net = torchvision.models.VisionTransformer(224, 16, 4, 3, 192, 768, num_classes=100)
    net.conv_proj = nn.Conv2d(channels, 192, 16, 16)
    head, net.heads = net.heads, nn.Identity()
    nn.init.normal_(head[0].weight, std=0.02)
    return net, head


NETWORKS = {
    network.name: network
    for network in (
        Network("cnn", 64, 10, _cnn),
        Network("resnet18", 224, 1000, _resnet),
        Network("vit", 224, 100, _vit),
    )
}


class Behind(nn.Module):
    """A network; those below add something in front of it, or behind it."""

    def __init__(self, network: Network, channels: int = 3) -> None:
        super().__init__()
        with warnings.catch_warnings(action="ignore"):
            self.net = torch.jit.trace(network.made(channels), network.images(2, channels), check_trace=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class Named(Behind):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"scores": self.net(images), "mean": images.mean([1, 2, 3])}


class Twice(Behind):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.net(images)
        return scores, scores.flip([1])


class Decided(Behind):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).argmax(1)


class Rounded(Behind):
    def forward(self, images: Tensor) -> Tensor:
        return self.net((images * 255).long().float())


class Detached(Behind):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).detach()


class Noisy(Behind):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images + 0.1 * torch.randn_like(images))


class Counting(Behind):
    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.count = torch.jit.Attribute(0, int)

    def forward(self, images: Tensor) -> Tensor:
        self.count = self.count + 1
        return self.net(images) / self.count


class Averaging(Behind):
    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add_(1)
        return self.net(images) * self.seen


class Branching(Behind):
    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        return scores if bool(scores.sum() > 0) else -scores


class Measured(Behind):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) * float(images.max().item())


class Selected(Behind):
    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        return scores[scores[:, 0] > 0]


class Endless(Behind):
    def forward(self, images: Tensor) -> Tensor:
        steps = 0
        while steps >= 0:
            steps += 1
        return self.net(images) * steps


class Refining(Behind):
    """It repeats what it does to the scores until nothing changes, which never is."""

    def forward(self, images: Tensor) -> Tensor:
        scores, steps = self.net(images), 0
        while steps >= 0:
            scores = scores * 0.5 + 0.1
            steps += 1
        return scores


class Told(Behind):
    def forward(self, images: Tensor, age: Tensor) -> Tensor:
        return self.net(images) + age


class Scaled(Behind):
    def forward(self, images: Tensor, scale: float = 2.0) -> Tensor:
        return self.net(images) * scale


class Raw(Behind):
    def forward(self) -> Tensor:
        return self.net(torch.ones(1, 3, 64, 64))


class Last(Behind):
    """Of images whose channels come last."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.permute(0, 3, 1, 2))


class One(Behind):
    """Of one image without a batch."""

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image[None])[0]


class Eight(Behind):
    """Of eight images, and no other number."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.side = network.side

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.view(8, 3, self.side, self.side))


class EightLast(Eight):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.permute(0, 3, 1, 2).expand(8, 3, self.side, self.side))


class Viewed(nn.Module):
    """It takes whatever there is for rows of as many numbers as its head takes."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.features, self.head = network.parts(3)
        self.width = self.head.in_features

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).view(-1, self.width))


class Repainted(nn.Module):
    """Images to images."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        width = 32 if network.name == "cnn" else 64
        self.down, self.up = nn.Conv2d(3, width, 3, 2, 1), nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.up(self.down(images).relu()).sigmoid()


class Drawn(nn.Module):
    """Codes of 16 numbers to images."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.side = network.side // 4
        self.wide, self.up = nn.Linear(16, 16 * self.side**2), nn.ConvTranspose2d(16, 3, 4, 4)

    def forward(self, codes: Tensor) -> Tensor:
        return self.up(self.wide(codes).relu().view(-1, 16, self.side, self.side)).sigmoid()


class Words(nn.Module):
    """Of text: numbers of words."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        width = 64 if network.name == "cnn" else 256
        self.words, self.head = nn.Embedding(30000 if width > 64 else 1000, width), nn.Linear(width, network.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.words(tokens).mean(1))


class Sound(nn.Module):
    """Of sound [n, 1, samples]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 64, 80, 16), nn.Linear(64, network.classes)

    def forward(self, sound: Tensor) -> Tensor:
        return self.head(self.conv(sound).relu().mean(2))


class Volume(nn.Module):
    """Of volumes [n, 1, depth, height, width]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 16, 3), nn.Linear(16, network.classes)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.head(self.conv(volumes).relu().mean([2, 3, 4]))


class Rows(nn.Module):
    """Of rows of 30 numbers."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, network.classes))

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


def scripted(part: Part) -> Writer:
    """Writes it as a script."""

    def write(network: Network, path: Path) -> None:
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore"):
            torch.jit.script(part(network).eval()).save(str(path))

    return write


def traced(part: Part, *inputs: Callable[[Network], Tensor]) -> Writer:
    """Writes it as a trace."""

    def write(network: Network, path: Path) -> None:
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore"):
            given = tuple(make(network) for make in inputs or (Network.images,))
            torch.jit.trace(part(network).eval(), given, check_trace=False, strict=False).save(str(path))

    return write


def program(network: Network, path: Path) -> None:
    """Writes the network by `torch.export`, for any number of rows."""
    rows = {0: torch.export.Dim("rows")}
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(network.made(), (network.images(),), dynamic_shapes=(rows,)), path)


def saved(of: Callable[[nn.Module], Any]) -> Writer:
    """Writes by `torch.save`."""
    return lambda network, path: torch.save(of(network.made()), path, pickle_module=pickle)


def beginning(magic: bytes) -> Writer:
    """Writes what begins so, and goes on with the network's weights."""

    def write(network: Network, path: Path) -> None:
        weights = b"".join(tensor.numpy().tobytes() for tensor in network.made().state_dict().values())
        path.write_bytes(magic + weights)

    return write


def content(written: bytes) -> Writer:
    """Writes just that."""

    def write(_: Network, path: Path) -> None:
        path.write_bytes(written)

    return write


def changed(change: Callable[[bytes], bytes]) -> Writer:
    """Writes the trace with its bytes changed."""

    def write(network: Network, path: Path) -> None:
        TRACE(network, path)
        path.write_bytes(change(path.read_bytes()))

    return write


def flipped(data: bytes) -> bytes:
    """With a byte in the middle that is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def packed(network: Network, path: Path) -> None:
    """Writes the trace in a zip archive."""
    inner = path.with_name("inner.pt")
    TRACE(network, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "inner.pt")
    inner.unlink()


def optimised(network: Network, path: Path) -> None:
    """Writes the trace as it is optimised for inference."""
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.freeze(torch.jit.trace(network.made(), network.images(), check_trace=False))
        torch.jit.optimize_for_inference(script).save(str(path))


def quantised(network: Network) -> nn.Module:
    """The network with quantised linear layers."""
    with warnings.catch_warnings(action="ignore"):
        net: nn.Module = torch.ao.quantization.quantize_dynamic(network.made(), {nn.Linear}, torch.qint8)
    return net


def eight(network: Network) -> Tensor:
    """The images that `Eight` takes."""
    return network.images(8)


def eight_last(network: Network) -> Tensor:
    """The images that `EightLast` takes."""
    return network.images(8).permute(0, 2, 3, 1)


def of_channels(channels: int) -> Part:
    """The network of images of so many channels."""
    return lambda network: Behind(network, channels)


TRACE = traced(Network.made)
SCRIPT = scripted(Behind)
