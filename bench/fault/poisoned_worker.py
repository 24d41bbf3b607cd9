"""A worker process for which some requests are poison: a saliency map of such a seed ends it in the midst of its step,
and so what shares the step with it."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightwell_server.pool import worker

ABORT, EXIT, KILL, FAULT = SEEDS = range(666, 670)
"""The process aborts; it exits; it is killed by a signal that could have come from outside; its device fails."""


class Deadly:
    """A target whose score is never computed."""

    def __init__(self, target: Any, seed: int) -> None:  # noqa: ANN401
        self._target, self._seed = target, seed

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._target, name)

    def score(self, values: Tensor, index: Tensor) -> Tensor:
        """Ends the process."""
        if self._seed == ABORT:
            os.abort()
        if self._seed == EXIT:
            os._exit(1)
        if self._seed == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("CUDA error: device-side assert triggered")


def main(told: dict[str, Any]) -> None:
    """Exchanges the method, before the catalog of methods is made, and serves."""
    module: Any = importlib.import_module("lightwell_server.methods.saliency")
    real: Callable[..., Any] = module.saliency

    @functools.wraps(real)
    def saliency(target: Any, rng: torch.Generator, **given: Any) -> Any:  # noqa: ANN401
        seed = rng.initial_seed()
        return real(target=Deadly(target, seed) if seed in SEEDS else target, **given)

    signature = inspect.signature(real)
    rng = inspect.Parameter("rng", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named: Any = saliency
    named.__signature__ = signature.replace(parameters=[rng, *signature.parameters.values()])
    module.saliency = saliency
    worker.main(told)
