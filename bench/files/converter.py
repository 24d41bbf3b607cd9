"""The converter that ships in torch, given the same TorchScript files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.common.figures import distance
from bench.common.nets import Original, first
from bench.files.lifting import ROWS

ROUNDING = 1e-5
"""The largest difference in float32 that passes as rounding, as a share of the largest score."""


def converted(path: Path, original: Original) -> str:
    """What the converter in torch makes of a TorchScript file: ok at any batch, ok at its sample's alone, or not."""
    from torch._export.converter import TS2EPConverter

    sample, net = original.sample, original.copied()
    two, more = (sample.normalise(sample.rows(count, seed=7)[0]) for count in (2, ROWS))
    try:
        program = TS2EPConverter(torch.jit.load(path), (two,)).convert().module()
        if not _agrees(program, net, two):
            return "differs"
    except Exception as error:  # a peer may fail as it likes
        return f"fails: {type(error).__name__}"
    try:
        return "ok" if _agrees(program, net, more) else "differs"
    except Exception:
        return "ok at one batch"


def _agrees(program: Callable[[Tensor], Any], net: nn.Module, rows: Tensor) -> bool:
    with torch.no_grad():
        return distance(first(program(rows)), first(net(rows))) <= ROUNDING
