"""Networks as TorchScript files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch


def trace(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    """Writes a network as TorchScript, traced in eval mode, and restores the network's mode. Lifting verifies the
    trace."""
    training, fast = network.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path of attention has no gradient
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.jit.trace(network.eval(), inputs, check_trace=False).save(str(path))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        network.train(training)


def script(network: torch.nn.Module, path: Path) -> None:
    """Writes a network as TorchScript, scripted in eval mode, with its branches."""
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(network.eval()).save(str(path))
