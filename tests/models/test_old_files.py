"""Files that older versions of torch wrote (`tests/files/make.py` says how) give what they gave under those."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lightwell_server.contract import OUT, Ask, Part
from lightwell_server.models.answer import answer
from lightwell_server.models.lifting.lift import Sample, lift
from tests.files.make import ROWS, pixels
from tests.nets import PLAIN

FOLDER = Path(__file__).parents[1] / "files"
SCORES = {name: sizes for path in sorted(FOLDER.glob("*.json")) for name, sizes in json.loads(path.read_text()).items()}


def test_every_file_has_its_scores():
    assert set(SCORES) == {path.name for path in FOLDER.glob("torch_*.pt*")} and len(SCORES) > 20


@pytest.mark.parametrize("name", SCORES)
def test_a_file_gives_what_it_gave_under_the_torch_that_wrote_it(name):
    sizes = {tuple(map(int, size.split("x"))): torch.tensor(scores) for size, scores in SCORES[name].items()}
    graph = lift(FOLDER / name, Sample(next(iter(sizes)), **PLAIN, before_activation=False))
    assert graph.any_size is (len(sizes) > 1) and not graph.row_by_row
    for size, scores in sizes.items():
        out = answer(graph, [Part(Ask(pixels(*size), want=OUT), 0, ROWS)])[0].out
        assert out.allclose(scores, atol=1e-5), size


QUIETLY = """
import contextlib, pathlib, sys
from lightwell_server.errors import Refused
from lightwell_server.models.lifting.lift import Sample, lift
for path in sorted(pathlib.Path(sys.argv[1]).glob("torch_*.pt*")):
    with contextlib.suppress(Refused):
        lift(path, Sample((16, 16)))
"""


def test_torch_says_nothing_of_old_files_on_standard_error():
    """In a process of its own: pytest keeps warnings to itself."""
    command = [sys.executable, "-c", QUIETLY, str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Floored(nn.Module):
    def forward(self, x):
        return torch.floor_divide(x.detach().mean((2, 3)) - self.shift, 0.01) * 0.01 + x.mean((2, 3))

    def __init__(self, shift: float):
        super().__init__()
        self.shift = shift


@pytest.mark.parametrize(("shift", "old", "told"), [(0.9, True, True), (0.9, False, False), (-0.9, True, False)])
def test_a_division_that_old_versions_rounded_otherwise_is_told_where_it_shows(tmp_path, shift, old, told):
    """Before torch 1.13 floor_divide rounded towards zero."""
    torch.jit.script(Floored(shift)).save(tmp_path / "now.pt")
    with zipfile.ZipFile(tmp_path / "now.pt") as now, zipfile.ZipFile(tmp_path / "then.pt", "w") as then:
        for member in now.infolist():
            if not (old and member.filename.endswith("byteorder")):
                then.writestr(member.filename, now.read(member))
    notes = lift(tmp_path / "then.pt", Sample((16, 16), **PLAIN)).notes
    assert any("floor_divide of negative values" in note for note in notes) == told
