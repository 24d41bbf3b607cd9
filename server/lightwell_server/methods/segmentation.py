"""Segmentation: GrabCut, begun where the saliency is high and where it is low. Simonyan et al. 2013, arXiv:1312.6034,
section 3.2."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Generator, Tensor

from lightwell_server.contract import Explaining, Facts, ModelInput, Share, Target, View, Work
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods.saliency import saliency

Bytes = NDArray[np.uint8]
Floats = NDArray[Any]
LARGEST = 512
"""The longer side in pixels at which GrabCut works at most: a round takes seconds from a thousand on."""
SMOOTH = 1 / 75
"""The saliency is smoothed before it is compared: a Gaussian's sigma, as a share of the shorter side."""


def applies(facts: Facts) -> str | None:
    """What is cut apart are colours."""
    return (
        "it cuts objects out by colour, and the channels of the model's images are no colours" if facts.tensor else None
    )


def segmentation(
    image: ModelInput,
    target: Target,
    rng: Generator,
    *,
    foreground: Share = 0.95,
    background: Share = 0.30,
    iterations: Annotated[int, Interval(ge=1, le=100)] = 5,
) -> Explaining:
    """`mask` [H, W], 1 for the object; the map is the saliency. Without pixels on both sides of the quantiles there is
    no object. Larger images are cut at `LARGEST` pixels."""
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
    """Rother et al. 2004, doi:10.1145/1015706.1015720, one round at a time."""

    def __init__(self, pixels: Bytes, marks: Bytes, seed: int) -> None:
        self.pixels, self.marks = pixels, marks
        self._colors = np.zeros((1, 65)), np.zeros((1, 65))
        self._seed: int | None = seed

    def iterate(self) -> None:
        """One round; the first also finds the colours to begin with."""
        mode = cv2.GC_EVAL
        if self._seed is not None:
            cv2.setRNGSeed(self._seed)  # of this thread alone
            self._seed, mode = None, cv2.GC_INIT_WITH_MASK
        cv2.grabCut(self.pixels, self.marks, (0, 0, 0, 0), *self._colors, 1, mode)
