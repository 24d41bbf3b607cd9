"""Segmentation: GrabCut, started from the pixels of high and of low saliency. Simonyan et al. 2013, arXiv:1312.6034,
section 3.2."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Generator, Tensor

from lightwell_server.contract import Explaining, Facts, ModelInput, Share, Target, View, Work
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods.saliency import saliency

try:
    import cv2
except ImportError:  # it is large, so it is an extra
    MISSING: str | None = "OpenCV is not installed at the server; install lightwell[segmentation] there"
else:
    MISSING = None

Bytes = NDArray[np.uint8]
"""Pixels [H, W, 3] or marks [H, W], uint8."""
Floats = NDArray[Any]
"""A saliency map [H, W], floating."""
LARGEST = 512
"""The longer side in pixels at which GrabCut works at most: from a thousand on, an iteration takes seconds."""
SMOOTH = 1 / 75
"""The standard deviation, as a share of the shorter side, of the Gaussian that smooths the saliency before it is
compared."""


def applies(facts: Facts) -> str | None:
    """Why it does not apply to a model, or None. It needs OpenCV, and colours."""
    colourless = "it cuts objects out by colour, and the channels of the model's images are no colours"
    return MISSING or (colourless if facts.tensor else None)


def segmentation(
    image: ModelInput,
    target: Target,
    rng: Generator,
    *,
    foreground: Share = 0.95,
    background: Share = 0.30,
    iterations: Annotated[int, Interval(ge=1, le=100)] = 5,
) -> Explaining:
    """The tensor `mask` [H, W], uint8, which is 1 for the object in `image` [1, 3, H, W], float32 or float64, in
    [0, 1], and 0 elsewhere. The map [H, W] is the saliency, in score per unit of colour. Images whose longer side is
    above `LARGEST` pixels are cut at that size. Raises InvalidArgument if `background` is above `foreground`.

    - `foreground`: quantile of the smoothed saliency, 0 to 1. Pixels above it are marked as the object; if there are
      none, the mask is 0.
    - `background`: quantile of the smoothed saliency, 0 to 1. Pixels up to it are marked as background.
    - `iterations`: iterations of GrabCut, which decides on the pixels between, 1 to 100.
    """
    if background > foreground:
        raise InvalidArgument.at("segmentation.background", f"{background:g} is above foreground, {foreground:g}")
    seen = yield from saliency(image, target)
    assert seen.map is not None  # it is what saliency gives
    pixels, marks = yield Work(_begun, image, seen.map.values, foreground, background)
    if {cv2.GC_FGD, cv2.GC_BGD} <= set(np.unique(marks).tolist()):
        seed = int(torch.randint(2**31, (), generator=rng))
        cut = GrabCut(pixels, marks, seed)
        for _ in range(iterations):
            yield Work(cut.iterate)
        marks = cut.marks
    mask = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8)
    enlarged = cv2.resize(mask, tuple(image.shape[:1:-1]), interpolation=cv2.INTER_NEAREST)
    return replace(seen, tensors={"mask": torch.from_numpy(enlarged)}, views={"mask": View("mask")})


def _begun(image: Tensor, values: Tensor, foreground: float, background: float) -> tuple[Bytes, Bytes]:
    """Pixels [H, W, 3] and their marks [H, W], at the size at which they are cut."""
    pixels = image[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).flip(2).cpu().numpy()
    array: Floats = values.double().cpu().numpy()
    share = LARGEST / max(array.shape)
    if share < 1:
        size = max(1, round(array.shape[1] * share)), max(1, round(array.shape[0] * share))
        pixels, array = (np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA)) for part in (pixels, array))
    return np.ascontiguousarray(pixels), _marked(array, foreground, background)


def _marked(array: Floats, foreground: float, background: float) -> Bytes:
    """Which pixels [H, W] surely are the object and which are not; the rest is taken for background at first. These
    marks are final, and the saliency of single pixels is noisy: unsmoothed it leaves holes and specks."""
    array = cv2.GaussianBlur(array, (0, 0), SMOOTH * min(array.shape))
    low, high = np.quantile(array, (background, foreground))
    marks = np.full(array.shape, cv2.GC_PR_BGD, np.uint8)
    marks[array <= low] = cv2.GC_BGD  # many may have none at all
    marks[array > high] = cv2.GC_FGD
    return marks


class GrabCut:
    """GrabCut, one iteration at a time. Rother et al. 2004, doi:10.1145/1015706.1015720. `pixels` [H, W, 3], uint8, are
    in the order blue, green, red. `marks` [H, W], uint8, are OpenCV's `GC_` classes and change with each iteration.
    `seed`, 0 to 2**31 - 1, is that of OpenCV's generator."""

    def __init__(self, pixels: Bytes, marks: Bytes, seed: int) -> None:
        self.pixels, self.marks = pixels, marks
        self._colors = np.zeros((1, 65)), np.zeros((1, 65))
        self._seed: int | None = seed

    def iterate(self) -> None:
        """Runs one iteration. The first also fits the initial colour models."""
        mode = cv2.GC_EVAL
        if self._seed is not None:
            cv2.setRNGSeed(self._seed)  # of this thread alone
            self._seed, mode = None, cv2.GC_INIT_WITH_MASK
        cv2.grabCut(self.pixels, self.marks, (0, 0, 0, 0), *self._colors, 1, mode)
