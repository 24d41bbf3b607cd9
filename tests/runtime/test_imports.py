"""torch imports parts of itself when they are first used, and a thread that uses them meanwhile finds half of them. So
none are imported by a step or while a file is lifted, but where one thread at a time reads a program."""

import subprocess
import sys

import pytest
import torch

from tests.nets import Residual, export, seeded


@pytest.mark.parametrize("form", ["traced", "scripted", "pt2"])
def test_no_step_imports_a_part_of_torch(tmp_path, form):
    file = export(seeded(Residual), form, tmp_path, torch.rand(2, 3, 64, 64))
    done = subprocess.run(
        [sys.executable, "-m", "tests.imported", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    explained, *imported = done.stdout.split()
    assert int(explained) > 20 and not imported
