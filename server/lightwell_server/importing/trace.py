"""Networks as TorchScript files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch


def trace(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    """Writes a network as TorchScript, in eval mode, and leaves it as it was. Lifting checks the trace."""
    training, fast = network.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast attention has no gradient
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.jit.trace(network.eval(), inputs, check_trace=False).save(str(path))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        network.train(training)


def script(network: torch.nn.Module, path: Path) -> None:
    """Writes a network as TorchScript with its branches, in eval mode."""
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(network.eval()).save(str(path))
