"""How people write their models: idioms of scripts, and arithmetic on sizes that a trace writes with tensors. Each
lifts to the eager network, at other sizes too where the file takes them."""

import enum
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.models.answer import answer
from lightwell_server.models.lifting.lift import Sample, lift
from tests.nets import PLAIN, export, seeded

SIDE = 16


def is_the_network(graph, net, side=SIDE):
    """Outputs and gradients of two rows in double precision."""
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    graph.to("cpu", torch.float64)
    got = answer(graph, [Part(Ask(x, lambda v, i: v[:, 1], want=OUT | GRAD), 0, 2)])[0]
    truth = net.double()(x.requires_grad_())
    (gradient,) = torch.autograd.grad(truth[:, 1].sum(), x)
    assert torch.allclose(got.out, truth, rtol=0, atol=1e-7)
    assert torch.allclose(got.grad, gradient, rtol=0, atol=1e-7)


class Base(nn.Module):
    colors: list[float]

    def __init__(self):
        super().__init__()
        self.colors, self.conv, self.fc = [0.5, 0.25, 0.125], nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def features(self, x):
        return torch.tanh(self.conv(x)).mean((2, 3))

    def head(self, x):
        return self.fc(self.features(x))


class Flag(Base):
    def forward(self, x, features: bool = False):
        return self.features(x) if features else self.head(x)


class Number(Base):
    def forward(self, x, scale: float = 2.0, power: int = 2, names: list[str] | None = None):
        return self.head(x) * scale**power + (0 if names is None else len(names))


class Masked(Base):
    def forward(self, x, mask: Tensor | None = None):
        if mask is not None:
            x = x * mask
        return self.head(x)


class Forked(Base):
    def forward(self, x):
        other = torch.jit.fork(self.features, x * 2)
        return self.fc(self.features(x) + torch.jit.wait(other))


class Numbers(Base):
    def forward(self, x):
        nested = torch.tensor([[0.5], [0.25], [0.125]], dtype=x.dtype).unsqueeze(2)
        whole = torch.as_tensor(self.colors, dtype=x.dtype, device=x.device)[:, None, None]
        return self.head(x - nested + whole * torch.tensor(3.0)) + torch.tensor([1, 2, 3, 4])


class Listed(Base):
    def forward(self, x):
        return self.head(x[:, [2, 1, 0]])


class Sizes(Base):
    def forward(self, x):
        sizes = torch.tensor([x.shape[2], x.shape[3]])
        area = int(torch.prod(torch.as_tensor(x.shape)[2:]).item())
        return self.head(x) * sizes[0] / sizes.max() + area / (x.shape[2] * x.shape[3])


class Counted(Base):
    def forward(self, x):
        sizes: list[int] = torch.tensor(x.shape)[2:].tolist()
        zeros = [0] * x.shape[2]
        return self.head(x) * sizes[0] / sizes[1] + len(zeros)


class Mode(enum.Enum):
    MEAN = "mean"
    PEAK = "peak"


class Enumerated(Base):
    def __init__(self):
        super().__init__()
        self.mode = Mode.MEAN

    def forward(self, x):
        if self.mode == Mode.PEAK:
            return self.fc(self.conv(x).amax((2, 3)))
        return self.head(x) if self.mode.value == "mean" else self.head(-x)


@torch.jit.script
class Scale:
    def __init__(self, by: float):
        self.by = by
        self.uses = 0

    def apply(self, x: Tensor) -> Tensor:
        self.uses += 1
        return x * self.by


class Owned(Base):
    def forward(self, x):
        scale = Scale(0.5)
        x = scale.apply(x)
        return self.head(scale.apply(x)) + scale.uses


class Written(Base):
    def forward(self, x):
        y = self.conv(x)
        y[:, 0] = 0.5
        y[:, 1] = 2
        y[:, 2] = y[:, 3] * 2
        return self.fc(y.mean((2, 3)))


class Refined(Base):
    """Values whose types are found out, and a block that switches half precision off."""

    def forward(self, x: Tensor | list[Tensor]):
        images = x if isinstance(x, Tensor) else x[0]
        parts: dict[str, Any] = {"scores": self.head(images), "scale": 3, "names": ["a", "b"]}
        scores, scale, names = parts["scores"], parts["scale"], parts["names"]
        assert isinstance(scores, Tensor) and isinstance(scale, int)
        with torch.autocast("cpu", enabled=False):
            if torch.jit.isinstance(names, list[str]):
                scores = scores * scale + len(names)
        return scores


SCRIPTS = (Flag, Counted, Number, Masked, Forked, Numbers, Listed, Sizes, Enumerated, Owned, Written, Refined)


@pytest.mark.parametrize("form", ["scripted", "frozen"])
@pytest.mark.parametrize("make", SCRIPTS)
def test_idioms_of_scripts(tmp_path, make, form):
    net = seeded(make)
    graph = lift(export(net, form, tmp_path), Sample((SIDE, SIDE), **PLAIN))
    is_the_network(graph, net)
    if make is Counted:  # a list as long as the image is high is that long
        assert not graph.any_size
    else:
        is_the_network(graph, net, 24)


def test_the_card_sets_arguments_that_have_defaults(tmp_path):
    net = seeded(Number)
    graph = lift(export(net, "scripted", tmp_path), Sample((SIDE, SIDE), **PLAIN, arguments={"scale": 3.0}))
    x = torch.rand(2, 3, SIDE, SIDE)
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out, net(x, 3.0), atol=1e-5)


def test_a_program_keeps_the_arguments_that_it_was_exported_with(tmp_path):
    net, x = seeded(Number), torch.rand(2, 3, SIDE, SIDE)
    program = torch.export.export(net, (x, 3.0, 1), dynamic_shapes=({0: torch.export.Dim("rows")}, None, None))
    torch.export.save(program, tmp_path / "model.pt2")
    graph = lift(tmp_path / "model.pt2", Sample((SIDE, SIDE), **PLAIN))
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out, net(x, 3.0, 1), atol=1e-5)


class Centred(Base):
    """Its mean has no gradient."""

    def forward(self, x):
        with torch.no_grad():
            centre = x.square().mean((1, 2, 3), keepdim=True)
        return self.head(x - centre)


@pytest.mark.parametrize("form", ["scripted", "pt2"])
def test_blocks_without_gradients_have_none_and_a_note_says_so(tmp_path, form):
    net = seeded(Centred)
    graph = lift(export(net, form, tmp_path, torch.rand(2, 3, SIDE, SIDE)), Sample((SIDE, SIDE), **PLAIN))
    is_the_network(graph, net)
    assert any("torch.no_grad()" in note and "test_idioms.py" in note for note in graph.notes)


class Steady(Base):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            y = self.features(x)
        return self.fc(y)


def test_a_program_may_switch_half_precision_off(tmp_path):
    net = seeded(Steady)
    graph = lift(export(net, "pt2", tmp_path, torch.rand(2, 3, SIDE, SIDE)), Sample((SIDE, SIDE), **PLAIN))
    is_the_network(graph, net)


class Through(Base):
    """Rounds, and takes the gradient of what it rounds."""

    def forward(self, x):
        return self.head(x + (torch.round(4 * x) / 4 - x).data)


def test_what_is_read_as_data_passes_no_gradient(tmp_path):
    net = seeded(Through)
    graph = lift(export(net, "scripted", tmp_path), Sample((SIDE, SIDE), **PLAIN))
    is_the_network(graph, net)


class Striped(Base):
    """Takes every other row by a mask that is made of the image's height."""

    def forward(self, x):
        mask = torch.zeros([x.shape[2]], dtype=torch.bool)
        mask[::2] = True
        return self.head(x[:, :, mask])


@pytest.mark.parametrize("form", ["scripted", "traced"])
def test_masks_that_are_made_of_sizes_may_be_indices(tmp_path, form):
    net = seeded(Striped)
    graph = lift(export(net, form, tmp_path, torch.rand(2, 3, SIDE, SIDE)), Sample((SIDE, SIDE), **PLAIN))
    for side in (SIDE, 24):
        is_the_network(graph, net, side)


class Filled(Base):
    """Tensors of their own, in whatever type is the default."""

    def forward(self, x):
        y = self.conv(x)
        made = torch.zeros(y.shape[0], 8, y.shape[2], y.shape[3])
        made[:, :, ::2] = y[:, :, ::2]
        ramp = torch.linspace(0, 1, y.shape[3]) + torch.ones(y.shape[3])
        return self.fc(torch.tanh(made * ramp).mean((2, 3)) @ torch.eye(8))


@pytest.mark.parametrize("form", ["traced", "scripted", "pt2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tensors_of_the_default_type_are_made_in_the_graphs(tmp_path, form, dtype):
    net, x = seeded(Filled), torch.rand(2, 3, SIDE, SIDE)
    path = export(net, form, tmp_path, x)
    graph = lift(path, Sample((SIDE, SIDE), **PLAIN), dtype).to("cpu", dtype)
    out = answer(graph, [Part(Ask(x.to(dtype), want=OUT), 0, 2)])[0].out
    assert torch.allclose(out.float(), net(x), atol=1e-6 if dtype is torch.float64 else 0.05)


class Padded(Base):
    """Pads its image to a multiple of 16, and knows its longer side."""

    def forward(self, x):
        rest = divmod(x.shape[2], 16)[1]
        longer = sorted([x.shape[2], x.shape[3], 40])[2]
        return self.head(F.pad(x, (0, 0, 0, (16 - rest) % 16))) * longer


def test_several_numbers_of_one_operation_stay_sizes(tmp_path):
    net = seeded(Padded)
    graph = lift(export(net, "scripted", tmp_path), Sample((SIDE, SIDE), **PLAIN))
    for side in (SIDE, 24, 41):
        is_the_network(graph, net, side)


class Patches(nn.Module):
    """Patches of 4 x 4 as tokens; how many there are is computed in several ways while it is traced."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.embed, self.fc = kind, nn.Linear(48, 8), nn.Linear(8, 5)

    def counts(self, h, w):
        if not isinstance(h, Tensor):  # it is not being traced
            return h // 4, w // 4
        if self.kind == "true division":
            return (h / 4).int(), (w / 4).long()
        if self.kind == "rounded":
            return torch.ceil(h / 4).int(), torch.round(w / 4).to(torch.int64)
        if self.kind == "root":
            return (torch.sqrt((h * w / 16).float()).int(),) * 2
        if self.kind == "item":
            return (h // 4).item(), int(w / 4)
        if self.kind == "alpha":
            return torch.sub(h, h // 4, alpha=3), torch.sub(w // 2, w // 8, alpha=2)
        if self.kind == "stacked":
            return tuple((torch.stack([h, w]) // 4).unbind())
        return h // 4, w // 4

    def forward(self, x):
        n, h, w = x.size(0), x.size(2), x.size(3)
        rows, columns = self.counts(h, w)
        y = x.reshape(n, 3, rows, 4, columns, 4).permute(0, 2, 4, 3, 5, 1)
        places = 1 * rows
        if self.kind == "product in place":
            places *= columns
        else:
            places = places * columns
        return self.fc(torch.tanh(self.embed(y.reshape(n, places, 48))).mean(1))


@pytest.mark.parametrize(
    "kind", ["floor division", "product in place", "true division", "rounded", "root", "item", "stacked", "alpha"]
)
def test_arithmetic_on_sizes_in_traces(tmp_path, kind):
    torch.manual_seed(0)
    net = Patches(kind).eval()
    graph = lift(export(net, "traced", tmp_path, torch.rand(2, 3, SIDE, SIDE)), Sample((SIDE, SIDE), **PLAIN))
    is_the_network(graph, net)
    if kind in ("root", "item"):  # these take squares, or the sample's size, alone
        assert not graph.any_size
    else:
        is_the_network(graph, net, 24)


class Cropped(nn.Module):
    """To 0.7 of the sides, computed in single precision while it is traced: 0.7 times 10 is 7 there, 6.9999999 else."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        share = torch.tensor(0.7, dtype=torch.float32)
        rows, columns = (torch.floor(torch.as_tensor(side).float() * share).int() for side in x.shape[2:])
        return self.fc(x[:, :, :rows, :columns].mean((2, 3)))


def test_fractions_of_sizes_round_as_in_single_precision(tmp_path):
    net, x = seeded(Cropped), torch.rand(2, 3, 10, 10)
    graph = lift(export(net, "traced", tmp_path, torch.rand(2, 3, 20, 20)), Sample((20, 20), **PLAIN))
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out, net(x), atol=1e-6)


def decomposed(net, path):
    program = torch.export.export(net, (torch.rand(3, 3, SIDE, SIDE),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program.run_decompositions(), path)


def test_decomposed_programs_may_write_in_place(tmp_path):
    net = seeded(Written)
    decomposed(net, tmp_path / "model.pt2")
    is_the_network(lift(tmp_path / "model.pt2", Sample((SIDE, SIDE), **PLAIN)), net)


class Normed(nn.Module):
    """Convolutions of several kinds before their batch norms, and a clamp for a ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = self.last(self.second(self.norm(self.first(x)).clamp(min=0)))
        return self.fc(F.softmax(y, dim=1).mean((2, 3)))


def test_arguments_by_name_are_those_by_place(tmp_path):
    """The exporter of torch 2.6 writes them by name."""
    net = seeded(Normed)
    program = torch.export.export(net, (torch.rand(3, 3, SIDE, SIDE),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            names = [argument.name for argument in node.target._schema.arguments]
            node.kwargs = dict(zip(names[1:], node.args[1:], strict=False)) | dict(node.kwargs)
            node.args = node.args[:1]
    program.graph_module.recompile()
    torch.export.save(program, tmp_path / "model.pt2")
    assert all(len(node.args) <= 1 for node in torch.export.load(tmp_path / "model.pt2").graph.nodes)
    graph = lift(tmp_path / "model.pt2", Sample((SIDE, SIDE), **PLAIN))
    assert graph.has_relu
    is_the_network(graph, net)


class Scaled(nn.Module):
    """What is computed from weights alone is computed once, while the file is read."""

    def __init__(self):
        super().__init__()
        self.scale, self.conv, self.fc = nn.Parameter(torch.rand(8, 1, 1)), nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc((self.conv(x) * (self.scale.square() + 2).sqrt() / 3**0.5).tanh().mean((2, 3)))


@pytest.mark.parametrize("form", ["traced", "scripted", "pt2"])
def test_constants_are_as_wide_as_what_is_computed_with_them(tmp_path, form):
    net, sample = seeded(Scaled), Sample((SIDE, SIDE), **PLAIN)
    path, x = export(net, form, tmp_path, torch.rand(2, 3, SIDE, SIDE)), torch.rand(2, 3, SIDE, SIDE).double()
    truth = net.double()(x)
    for dtype, furthest in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        graph = lift(path, sample, dtype).to("cpu", torch.float64)
        assert (answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out - truth).abs().max() < furthest
        assert graph.weights is torch.float32


class Single(nn.Module):
    """It makes its weights in single precision, and runs in no other."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(F.conv2d(x, torch.ones(4, 3, 3, 3)).mean((2, 3)))


def test_a_file_that_runs_in_single_precision_alone_is_read_in_that(tmp_path):
    path = export(seeded(Single), "scripted", tmp_path)
    graph, x = lift(path, Sample((SIDE, SIDE), **PLAIN), torch.float64), torch.rand(2, 3, SIDE, SIDE)
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out, torch.jit.load(path)(x), atol=1e-5)
