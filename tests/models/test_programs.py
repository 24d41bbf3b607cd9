"""`torch.export` programs: what they say of the sizes of their inputs is kept, and nothing in them is passed over."""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from lightwell_server.contract import OUT, Ask, Part
from lightwell_server.errors import InvalidArgument, Refused
from lightwell_server.models.answer import answer
from lightwell_server.models.lifting.exported import record
from lightwell_server.models.lifting.files import opened
from lightwell_server.models.lifting.lift import Sample, lift
from lightwell_server.models.lifting.recorder import Recorder
from tests.nets import PLAIN, seeded

AUTO = torch.export.Dim.AUTO


def test_programs_are_opened_at_the_same_time(tmp_path):
    net, x = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(30))), torch.rand(2, 3, 8, 8)
    exported(net, tmp_path / "same.pt2", x)
    with zipfile.ZipFile(tmp_path / "same.pt2") as whole, zipfile.ZipFile(tmp_path / "none.pt2", "w") as spoilt:
        for name in whole.namelist():
            spoilt.writestr(name, whole.read(name).replace(b"aten", b"none"))
    with ThreadPoolExecutor(8) as threads:
        others = [threads.submit(opened, tmp_path / "none.pt2") for _ in range(4)]
        files = list(threads.map(opened, [tmp_path / "same.pt2"] * 8))
    assert all(torch.equal(file.run([x]), net(x)) for file in files)
    for other in others:
        with pytest.raises(Refused, match="cannot be read"):
            other.result()


class Tall(nn.Module):
    def forward(self, x):
        if x.size(2) > 100:
            return x.amax((2, 3))
        return x.mean((2, 3))


def test_a_programs_own_limits_of_its_sizes_are_kept(tmp_path):
    dim = torch.export.Dim
    shapes = ({0: dim("batch"), 2: 8 * dim("height", max=12), 3: dim.AUTO},)
    program = torch.export.export(Tall(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "tall.pt2")
    graph = lift(tmp_path / "tall.pt2", Sample((16, 16), **PLAIN))
    assert graph.any_size
    x = torch.rand(1, 3, 64, 40)
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 1)])[0].out, Tall()(x), atol=1e-6)
    for height in (104, 60):
        with pytest.raises(InvalidArgument, match="own limits of height"):
            answer(graph, [Part(Ask(torch.rand(1, 3, height, 40), want=OUT), 0, 1)])


class Wide(nn.Module):
    """Less than twice as wide as high, and larger than 100 pixels; interpolation and pooling make the exporter write
    guards with roundings and an `and` in them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        torch._check(x.size(2) * 2 > x.size(3))
        if x.size(2) * x.size(3) > 100:
            return F.avg_pool2d(self.conv(F.interpolate(x, scale_factor=1.5)), 2).relu().mean((2, 3))
        return x.amax((2, 3))


def exported(net, path, *inputs, **dynamic_shapes):
    """The program that is in the file now."""
    torch.export.save(torch.export.export(net, inputs, dynamic_shapes=dynamic_shapes), path)
    return torch.export.load(path).module()


def test_a_programs_own_guards_are_kept(tmp_path):
    path = tmp_path / "wide.pt2"
    program = exported(seeded(Wide), path, torch.rand(2, 3, 32, 40), x={0: AUTO, 2: AUTO, 3: AUTO})
    assert any(" and " in guard for guard in torch.export.load(path)._guards_code)
    graph = lift(path, Sample((32, 40), **PLAIN))
    assert graph.any_size
    for count in (1, 2, 7):
        x = torch.rand(count, 3, 40, 48)
        assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, count)])[0].out, program(x), atol=1e-6)
    for size in ((20, 60), (8, 12)):
        with pytest.raises((AssertionError, RuntimeError), match=r"Guard failed|Expected input"):
            program(torch.rand(2, 3, *size))
        with pytest.raises(InvalidArgument, match="own guards of its sizes"):
            answer(graph, [Part(Ask(torch.rand(2, 3, *size), want=OUT), 0, 2)])


def test_a_size_that_a_programs_guards_refuse_is_not_the_cards(tmp_path):
    path = tmp_path / "wide.pt2"
    exported(seeded(Wide), path, torch.rand(2, 3, 32, 40), x={0: AUTO, 2: AUTO, 3: AUTO})
    with pytest.raises(Refused, match=r"\(Guard failed: .*\); the file runs with input.size = .*: set it"):
        lift(path, Sample((20, 60), **PLAIN))


@pytest.mark.parametrize("limits", [{"max": 4}, {"min": 2, "max": 16}])
def test_a_programs_guards_do_not_count_the_rows_of_a_step(tmp_path, limits):
    batch = torch.export.Dim("batch", **limits)
    net, path = seeded(Wide), tmp_path / "wide.pt2"
    program = exported(net, path, torch.rand(2, 3, 32, 40), x={0: batch, 2: AUTO, 3: AUTO})
    x = torch.rand(20, 3, 32, 40)
    with pytest.raises((AssertionError, RuntimeError), match=r"Guard failed|Expected input"):
        program(x)
    graph = lift(path, Sample((32, 40), **PLAIN))
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 20)])[0].out, net(x), atol=1e-6)
    with pytest.raises(InvalidArgument, match="own guards of its sizes"):
        answer(graph, [Part(Ask(torch.rand(2, 3, 20, 60), want=OUT), 0, 2)])


def test_a_program_that_calls_a_module_is_refused():
    """None that torch writes today does."""
    module, recorder = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3))), Recorder()
    with pytest.raises(Refused, match="0 in the model: a program that calls a module cannot be lifted"):
        record(module, [recorder.input("rows", torch.rand(2, 3, 8, 8))], recorder)
