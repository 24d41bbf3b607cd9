"""Finds out what a TorchScript file takes if it does not take an image, by running it on other inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightwell_server.models.lifting import outputs
from lightwell_server.models.lifting.files import ModelFile


def instead(file: ModelFile) -> str | None:
    """A message that says what a file with one input takes in place of an image, if that is found."""
    if len([name for name in file.arguments if name not in file.optional]) > 1:
        return None
    for kind, example in _others(file):
        try:
            given = [leaf for _, leaf in outputs.leaves(file.run([example]))]
        except Exception:  # noqa: S112 - an unknown file may raise anything
            continue
        width = example.shape[1]
        if any(isinstance(leaf, Tensor) and leaf.dim() == 4 for leaf in given) and example.is_floating_point():
            return f"the model makes images of {kind}: set its kind to generator, and input.code to {width}"
        if not (kind.startswith("rows") and _square(width)):
            return f"the model takes {kind} and no image; bring one that takes images [n, channels, height, width]"
    return None


def _others(file: ModelFile) -> Iterator[tuple[str, Tensor]]:
    """Kinds of inputs with an example of each. The widths are taken from the weights, which come in the order of
    use."""
    yield "numbers of words or other tokens [n, length] of int64", torch.zeros((2, 16), dtype=torch.int64)
    widths: dict[int, int] = {}
    for weight in file.weights():
        if weight.dim() > 1:
            widths.setdefault(weight.dim(), weight.shape[1])
    if 2 in widths:
        yield f"rows of {widths[2]} numbers [n, {widths[2]}]", torch.rand(2, widths[2], dtype=file.dtype)
    if 3 in widths:
        yield f"signals [n, {widths[3]}, length]", torch.rand(2, widths[3], 4096, dtype=file.dtype)
    if 5 in widths:
        yield f"volumes [n, {widths[5]}, depth, height, width]", torch.rand(2, widths[5], 16, 16, 16, dtype=file.dtype)
    yield "signals [n, samples], such as sound,", torch.rand(2, 16000, dtype=file.dtype)


def _square(width: int) -> bool:
    """Whether a flat input of that width may be a square image of one or three channels."""
    return any(width % channels == 0 and math.isqrt(width // channels) ** 2 == width // channels for channels in (1, 3))
