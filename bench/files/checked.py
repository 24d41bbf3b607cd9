"""Checks one file in a process of its own, as `lightwell models check` does, and tells what that took."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.common.figures import resident, risen
from bench.common.quiet import quiet
from lightwell_server.importing.given import Given
from lightwell_server.importing.inspection import inspect


@dataclass(frozen=True)
class Checked:
    """Processor seconds and the megabytes by which memory rose at its peak; the sentence of a refusal, empty if there
    was none."""

    seconds: float
    peak: float | None
    told: str


def ready() -> None:
    """Prepares the process: what torch loads and builds at its first use is not what a check costs."""
    torch.set_num_threads(1)
    quiet()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.jit.trace(net, torch.rand(2, 3, 3, 3), check_trace=False).save(str(path))
        inspect(path, Given())


def checked(path: Path) -> Checked:
    """Checks the file by the card beside it."""
    before, began, told = resident(), time.process_time(), ""
    try:
        inspect(path, Given())
    except ValueError as error:
        told = str(error)
    return Checked(time.process_time() - began, risen(before), told)
