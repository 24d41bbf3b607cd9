"""Small networks that are scripted, each showing an idiom of TorchScript as it is written: what a trace would lose."""

# No annotations from the future here: TorchScript reads them as they stand.
import enum
import math
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = (128, 160)
"""Height and width of their images."""
WIDTH, CLASSES = 16, 10


class _Small(nn.Module):
    """A stem that halves images twice, two blocks that keep their size, and a head."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(WIDTH)
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), norm, nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.SiLU()) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def scores(self, maps: Tensor) -> Tensor:
        """[n, classes] of maps [n, channels, h, w]."""
        return self.head(maps.mean([2, 3]))


class Defaults(_Small):
    """Arguments behind the image that have defaults."""

    def forward(self, images: Tensor, scale: float = 0.5, twice: bool = False, power: int = 2) -> Tensor:
        maps = self.stem(images) * scale
        if twice:
            maps = maps + maps
        return self.scores(maps.abs().pow(power))


class OptionalTensor(_Small):
    """A tensor that may be left out, and another that is looked for."""

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = self.stem(images)
        if mask is not None:
            maps = maps * mask
        extra: Tensor | None = None
        if maps.size(1) > 4:
            extra = maps[:, :4].mean(1, keepdim=True)
        return self.scores(maps if extra is None else maps * extra.sigmoid())


class TensorOfList(_Small):
    """Constants that are lists of numbers, made tensors at each call."""

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.tensor([0.1, 0.2, 0.3], dtype=images.dtype, device=images.device)
        std = torch.as_tensor([0.5, 0.6, 0.7], dtype=images.dtype, device=images.device)
        images = (images - mean[:, None, None]) / std.view(-1, 1, 1)
        weights = torch.tensor([[float(i + j) for i in range(16)] for j in range(2)], dtype=images.dtype)
        return self.scores(self.stem(images) * weights.mean(0).view(1, -1, 1, 1))


class ListIndex(_Small):
    """Indices that are lists of numbers."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images[:, [2, 1, 0]])
        chosen = [2 * i for i in range(maps.size(1) // 2)]
        kept: list[int] = []
        for i in range(maps.size(1)):
            if i % 2 == 1:
                kept.append(i)
        kept[-1] = -1
        return self.scores(torch.cat([maps[:, chosen], maps[:, kept]], 1))


class DictOutput(_Small):
    """Outputs by name, as detectors and segmenters give them."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        maps = self.stem(images)
        found["scores"] = self.scores(maps)
        for i, block in enumerate(self.blocks):
            maps = block(maps)
            found[f"level{i}"] = maps
        found["scores"] = found["scores"] + self.scores(maps)
        return found


class Found(NamedTuple):
    """What `TupleOutput` gives."""

    scores: Tensor
    maps: Tensor
    aside: Tensor | None


class TupleOutput(_Small):
    """A named tuple, one of its fields None in eval mode."""

    def forward(self, images: Tensor) -> Found:
        maps = self.stem(images)
        aside: Tensor | None = self.scores(maps) if self.training else None
        return Found(self.scores(maps.relu()), maps, aside)


class Loops(_Small):
    """Loops over modules: numbered, in pairs, and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(4, WIDTH) for _ in self.blocks)
        self.gates = nn.ModuleDict({"tanh": nn.Tanh(), "gelu": nn.GELU()})

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        levels: list[Tensor] = []
        for i, (block, norm) in enumerate(zip(self.blocks, self.norms)):  # noqa: B905 - TorchScript's has no `strict`
            maps = maps + (i + 1) * norm(block(maps))
            levels.append(maps)
        for name, gate in self.gates.items():
            levels[-1] = gate(levels[-1]) if name != "none" else levels[-1]
        return self.scores(torch.stack(levels).sum(0)) + self.scores(levels[0])


class EarlyReturn(_Small):
    """Returns from within branches and loops, by flags that are strings."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = "sum"

    def pooled(self, maps: Tensor, mode: str) -> Tensor:
        """[n, channels]."""
        if mode == "max":
            return maps.amax([2, 3])
        if mode in ("mean", "sum"):
            total = maps.sum([2, 3])
            return total if mode == "sum" else total / (maps.size(2) * maps.size(3))
        raise ValueError(f"there is no pooling {mode}")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        if maps.dim() != 4:
            return maps
        for block in self.blocks:
            maps = block(maps)
        return self.head(self.pooled(maps, self.mode) * 1e-3)


class Fork(_Small):
    """Branches that are forked, and waited for."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        futures: list[torch.jit.Future[Tensor]] = []
        for block in self.blocks:
            futures.append(torch.jit.fork(block, maps))
        return self.scores(torch.cat([torch.jit.wait(future) for future in futures], 3))


class Pooling(enum.Enum):
    """How `Enumeration` pools."""

    MEAN = 1
    PEAK = 2


class Enumeration(_Small):
    """An attribute that is a member of an enumeration, and constants."""

    slope: Final[float] = 0.2
    levels: Final[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.pooling = Pooling.PEAK

    def forward(self, images: Tensor) -> Tensor:
        maps = F.leaky_relu(self.stem(images), self.slope)
        for _ in range(self.levels):
            maps = F.avg_pool2d(maps, 2)
        if self.pooling == Pooling.PEAK:
            return self.head(maps.flatten(2).amax(-1))
        return self.scores(maps)


class Exported(_Small):
    """Methods that are exported beside forward, and called by it."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classified(self.features(images))

    @torch.jit.export
    def features(self, images: Tensor) -> list[Tensor]:
        """Two levels of maps."""
        first = self.stem(images)
        return [first, F.max_pool2d(first, 2)]

    @torch.jit.export
    def classified(self, levels: list[Tensor]) -> Tensor:
        """Scores of levels."""
        return self.scores(levels[0]) - self.scores(levels[-1])


class Assertions(_Small):
    """Assertions on sizes whose messages hold them, and prints for those who debug."""

    debug: Final[bool] = False

    def forward(self, images: Tensor) -> Tensor:
        n, c, h, w = images.shape
        assert c == 3, f"expected 3 channels and got {c}"
        assert h % 4 == 0 and w % 4 == 0, f"{h} x {w} is not divisible by 4"
        torch._assert(images.is_floating_point(), "images are floating")
        maps = self.stem(images)
        if self.debug:
            print("maps", maps.shape)
        assert list(maps.shape) == [n, maps.size(1), h // 4, w // 4], f"maps of {maps.shape[2:]}"
        return self.scores(maps)


class SliceWrites(_Small):
    """Tensors that are filled slice by slice, and changed in place."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        moved = torch.zeros_like(maps)
        moved[:, :4, :, 1:] = maps[:, :4, :, :-1]
        moved[:, 4:8, 1:] = maps[:, 4:8, :-1]
        moved[:, 8:] += maps[:, 8:]
        moved[..., 0] = 0.5
        moved[:, -1, :2].mul_(2).clamp_(min=-1.0)
        return self.scores(moved)


class Resizing(_Small):
    """Maps that are resized by a factor, and to sizes that were computed."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        large = F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
        small = F.interpolate(maps, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
        ratio = float(large.shape[-1]) / float(small.shape[-1])
        height, width = int(small.shape[-2] * ratio), int(small.shape[-1] * ratio)
        return self.scores(large * F.interpolate(small, size=[height, width], mode="bicubic"))


class SizeArithmetic(_Small):
    """Paddings and windows by arithmetic on sizes, with functions of `math`."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        height, width = maps.shape[-2:]
        below, right = math.ceil(height / 7) * 7 - height, (7 - width % 7) % 7
        maps = F.pad(maps, [0, right, 0, below])
        n, c, h, w = maps.shape
        windows = maps.view(n, c, h // 7, 7, w // 7, 7).permute(0, 2, 4, 1, 3, 5)
        scale = 1.0 / math.sqrt(float(windows.size(1) * windows.size(2))) + math.log(max(h, w)) / math.pi
        return self.head(windows.mean([4, 5]).sum([1, 2]) * scale * 0.1)


class While(_Small):
    """A loop that halves maps until they are small."""

    def forward(self, images: Tensor) -> Tensor:
        maps, steps = self.stem(images), 0
        while min(maps.size(2), maps.size(3)) > 5 and steps < 10:
            maps = F.avg_pool2d(maps, 2) + F.max_pool2d(maps, 2)
            steps += 1
            if steps == 3:
                break
        return self.scores(maps / steps)


class Comprehension(_Small):
    """Lists of tensors in one line, stacked and joined; sorted and reversed numbers."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        parts = [part * (i + 1) for i, part in enumerate(torch.split(maps, [4, 8, 4], dim=1))]
        halves = [half.relu() for half in maps.chunk(2, dim=1)]
        parts.extend(halves)
        widths = sorted([part.size(1) for part in parts])
        joined = torch.cat(parts[::-1], 1)
        return self.scores(torch.stack(joined.split(maps.size(1), 1), -1).sum(-1) / sum(widths))


def _widened(maps: Tensor, gain: float = 2.0) -> Tensor:
    return _squared(maps, gain) if gain > 1 else maps


def _squared(maps: Tensor, gain: float) -> Tensor:
    return maps * maps * gain


@torch.jit.ignore
def _drawn(maps: Tensor) -> None:
    raise RuntimeError("never called by a script")


class Functions(_Small):
    """Functions that call functions, and branches for scripts alone."""

    def forward(self, images: Tensor) -> Tensor:
        maps = _widened(self.stem(images))
        if torch.jit.is_scripting() or torch.jit.is_tracing():
            maps = maps.clone()
        elif self.training:
            _drawn(maps)
        if not torch.jit.is_scripting() and maps.requires_grad and self.training:
            maps.retain_grad()
        return self.scores(_widened(maps, gain=0.5))


class NoGrad(_Small):
    """Weights of the channels that are computed without a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        with torch.no_grad():
            weights = maps.mean([2, 3], keepdim=True).softmax(1)
        return self.scores(maps * weights)


class Refined(_Small):
    """Values of several types that are told apart."""

    def summed(self, given: Tensor | list[Tensor]) -> Tensor:
        """The sum of a list, or a tensor as it is."""
        if isinstance(given, torch.Tensor):
            return given
        return given[0] + given[1]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        named: dict[str, Any] = {"maps": maps, "gain": 2.0}
        gain, kept = named["gain"], named["maps"]
        assert torch.jit.isinstance(gain, float)
        assert isinstance(kept, Tensor)
        empty = torch.jit.annotate(list[Tensor], [])
        empty.append(self.summed([maps, kept * gain]))
        return self.scores(self.summed(empty.pop()))


class Einsum(_Small):
    """Attention over places by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.avg_pool2d(self.stem(images), 4)
        places = torch.einsum("nchw->nhwc", maps).flatten(1, 2)
        query, key = (linear.unflatten(-1, [4, 4]) for linear in (self.query(places), self.key(places)))
        weights = torch.einsum("nqhd,nkhd->nhqk", query, key).softmax(-1)
        attended = torch.einsum("nhqk, nkhd -> nqhd", weights, places.unflatten(-1, [4, 4]))
        return self.head(attended.flatten(2).mean(1))


class Masks(_Small):
    """Values chosen by comparison, filled and looked up."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        kept = torch.where(maps > 0.1, maps, maps * 0.01)
        kept = kept.masked_fill((maps < -0.5) | maps.isnan(), -0.2)
        there = torch.arange(maps.size(3), device=maps.device) < maps.size(3) // 2
        kept = kept * there.to(maps.dtype) * (kept != 0.0)
        scores = self.scores(kept)
        return scores + kept.flatten(1).topk(scores.size(1), dim=1).values


@torch.jit.script
class Window:
    """A region of maps."""

    def __init__(self, top: int, left: int, height: int, width: int) -> None:
        self.top = top
        self.left = left
        self.height = height
        self.width = width

    def cut(self, maps: Tensor) -> Tensor:
        """The maps within."""
        return maps[:, :, self.top : self.top + self.height, self.left : self.left + self.width]


class Objects(_Small):
    """Objects of a scripted class."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        windows = [Window(2 * i, i, maps.size(2) // 2, maps.size(3) // 2) for i in range(3)]
        windows[1].left += 3
        return self.scores(torch.stack([window.cut(maps) for window in windows]).mean(0))


IDIOMS: dict[str, type[nn.Module]] = {
    "defaults": Defaults,
    "optional_tensor": OptionalTensor,
    "tensor_of_list": TensorOfList,
    "list_index": ListIndex,
    "dict_output": DictOutput,
    "tuple_output": TupleOutput,
    "loops": Loops,
    "early_return": EarlyReturn,
    "fork": Fork,
    "enumeration": Enumeration,
    "exported_methods": Exported,
    "assertions": Assertions,
    "slice_writes": SliceWrites,
    "resizing": Resizing,
    "size_arithmetic": SizeArithmetic,
    "while": While,
    "comprehension": Comprehension,
    "functions": Functions,
    "no_grad": NoGrad,
    "refined_types": Refined,
    "einsum": Einsum,
    "masks": Masks,
    "objects": Objects,
}
"""The networks by the names of their idioms."""
