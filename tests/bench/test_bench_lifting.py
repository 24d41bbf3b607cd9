"""The benchmark of lifting, in small: that its tables say what came of each file. Times are not looked at."""

import sys

import pytest
import torch
from torch import nn

from bench import lifting
from bench.common import against
from bench.common.idioms import IDIOMS
from bench.common.nets import FAMILIES, original
from bench.files import folder
from bench.files.filed import found


class Small(nn.Module):
    """Scores of four classes."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean([2, 3]))


def traced(net, path, rows=2):
    torch.jit.trace(net.eval(), torch.rand(rows, 3, 32, 32), check_trace=False).save(str(path))
    return path


def lines(capsys, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["bench.lifting", *map(str, options)])
    missed = lifting.main()
    return missed, capsys.readouterr().out.splitlines()


def test_a_folder_with_a_good_and_a_bad_file_has_a_line_and_a_sentence_for_each(tmp_path, capsys, monkeypatch):
    (tmp_path / "within").mkdir()
    traced(Small(), tmp_path / "within" / "good.torchscript")
    (tmp_path / "within" / "card.toml").write_text('[input]\nsize = [32, 32]\n[output]\nactivation = "sigmoid"\n')
    (tmp_path / "bad.pt").write_text("no model")
    (tmp_path / "notes.txt").write_text("no model file")
    missed, told = lines(capsys, monkeypatch, "--files", tmp_path)
    assert not missed
    rows = {line.split()[0]: line.split()[1:] for line in told if line.startswith(("bad.pt ", "within/good"))}
    assert rows["bad.pt"][:3] == ["refused", "-", "-"]
    answer, output, gradient, *_, activation, layer = rows["within/good.torchscript"]
    assert (answer, activation, layer) == ("lifted", "sigmoid", "conv")
    assert max(float(output), float(gradient)) < 1e-12
    assert any(line.startswith("bad.pt: bad.pt is no TorchScript archive") for line in told)
    assert "2 files: 1 refused, 1 lifted" in told


def test_a_file_that_takes_too_long_hides_no_other(tmp_path):
    traced(Small(), tmp_path / "a.pt")
    (each,) = folder.tried(tmp_path, (32, 32), seconds=0.01)
    assert (each.answer, each.reason) == ("ended", "it took more than 0.01 s")


class Softmax(Small):
    def forward(self, images):
        return super().forward(images).softmax(1)


class Fixed(Small):
    def forward(self, images):
        return super().forward(images.view(3, 3, 32, 32))


class Lone(Small):
    def forward(self, images):
        return super().forward(images)[:, 0].sigmoid()


@pytest.mark.parametrize(("net", "rows"), [(Softmax(), 2), (Fixed(), 3), (Lone(), 2)])
def test_a_graph_is_compared_with_what_the_file_returns_in_double_precision(tmp_path, net, rows):
    each = found(traced(net, tmp_path / "a.pt", rows), (32, 32))
    assert each.lifted
    assert (each.dtype, each.reason) == ("float64", "")
    assert max(each.output, each.gradient) < 1e-12


def test_constants_in_the_code_of_a_frozen_file_are_compared_in_double_precision(tmp_path):
    torch.jit.freeze(torch.jit.script(Small().eval())).save(str(tmp_path / "a.pt"))
    each = found(tmp_path / "a.pt", (32, 32))
    assert each.dtype == "float64"
    assert max(each.output, each.gradient) < 1e-12


class InPlace(Small):
    def forward(self, images):
        maps = self.conv(images).sigmoid()
        return self.head(maps.mul_(maps).mean([2, 3])) + self.head(maps.relu_().mean([2, 3]))


def test_a_file_without_a_gradient_of_its_own_is_compared_without(tmp_path):
    each = found(traced(InPlace(), tmp_path / "a.pt"), (32, 32))
    assert each.output < 1e-12
    assert each.gradient is None
    assert each.reason.startswith("the file itself gives no gradient: ")


def test_a_graph_that_is_another_function_is_not_right():
    name = "a.pt"
    for output, gradient, right in ((1e-9, 1e-9, True), (1e-3, 1e-9, False), (1e-9, float("inf"), False)):
        told = folder.Found(lifted=True, output=output, gradient=gradient, dtype="float64")
        assert folder.Tried(name, told, "").right is right


def test_seconds_are_compared_round_by_round_and_file_by_file():
    goal = against.goal({"a.pt": [(1.0, 1.0), (4.0, 2.0), (9.0, 1.0)], "b.pt": [(1.0, 2.0)]})
    assert (goal.figure, goal.met) == (pytest.approx(1.0), True)


def test_a_tree_lifts_by_its_own_code(tmp_path):
    with against.Lifter(against.ROOT) as here:
        assert here.seconds(traced(Small(), tmp_path / "a.pt")) > 0


def test_every_network_belongs_to_one_family():
    names = [name for family in FAMILIES.values() for name in family]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", IDIOMS)
def test_every_idiom_can_be_scripted_and_is_what_the_network_computes(name):
    made = original(name)
    (images,) = made.sample.example(2)
    with torch.no_grad():
        expected, given = made.net(images), torch.jit.script(made.net)(images)
    torch.testing.assert_close(given, expected)


def test_idioms_are_a_family_of_their_own(capsys, monkeypatch):
    missed, told = lines(capsys, monkeypatch, "--family", "scripts", "--only", "masks", "--forms", "scripted")
    assert not missed
    assert any(line.startswith("masks_scripted.pt ") and "6/6" in line for line in told)
    assert any(line.startswith("networks of scripts that lift, of 1 scripted") for line in told)
