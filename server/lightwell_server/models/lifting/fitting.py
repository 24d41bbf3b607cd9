"""Where a file cannot be run as the card says: which numbers of rows, which size and which channels it takes, found out
by running it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from lightwell_server.models.lifting import inputs, outputs
from lightwell_server.models.lifting.files import ModelFile
from lightwell_server.models.lifting.sample import Sample

LARGEST = 4
"""How many times the card's pixels a size may have that is tried."""
_PRODUCT = re.compile(r"\(\d+x(\d+) and (\d+)x\d+\)")
"""Two matrices that do not fit: what a layer is given of each row, and what it takes."""
_TOKENS = re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")
_RESHAPED = re.compile(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)")
_ROWS = re.compile(r"gives (\d+) rows for (\d+)")
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+)")


def fixed_rows(file: ModelFile, sample: Sample) -> int | None:
    """The number of rows that the file takes if it takes no other; it was written into the file's shapes for good."""
    rows = next((count for count in file.counts if runs(file, sample, count)), None)
    return None if rows is None or runs(file, sample, rows + 1) else rows


def runs(file: ModelFile, sample: Sample, count: int) -> bool:
    """Whether the file itself takes that many rows, and gives as many."""
    try:
        given = [leaf for _, leaf in outputs.leaves(file.run(sample.example(count, file.dtype)))]
    except Exception:  # a file refuses what it does not take in its own words
        return False
    return any(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in given)


def explained(file: ModelFile, sample: Sample, told: str) -> str:
    """What a file fails with, and what to set in the card if the file runs with that; or what it takes in place of an
    image."""
    if sample.kind == "generator" or _takes(file, sample):
        return told
    for other, setting in _others(file, sample, told):
        if _takes(file, other):
            return f"{told}; the file runs with {setting}: set it in the card"
    height, width = sample.size
    own = f"so does the file itself on images of {height} x {width}, as the card has them: export it for those"
    return inputs.instead(file) or f"{told}; {own}"


def _takes(file: ModelFile, sample: Sample) -> bool:
    return any(runs(file, sample, count) for count in file.counts[:2])


def _others(file: ModelFile, sample: Sample, told: str) -> Iterator[tuple[Sample, str]]:
    """Samples that the file may take, and what the card would say of them."""
    for height, width in _sizes(file, sample, told):
        yield replace(sample, size=(height, width)), f"input.size = [{height}, {width}]"
    found = _CHANNELS.search(told)
    if found:
        count = int(found[1])
        plain = replace(sample, channels=count, mean=(0.0,) * count, std=(1.0,) * count, tensor=count not in (1, 3))
        yield plain, f"input.channels = {count}"


def _sizes(file: ModelFile, sample: Sample, told: str) -> list[tuple[int, int]]:
    """Sizes that the file may be made for: that of its sample, and those at which the numbers would be right."""
    height, width = sample.size
    sides = file.sampled[-3:-1] if sample.layout == "nhwc" else file.sampled[-2:]
    found = [(sides[0], sides[1])] if len(file.sampled) in (3, 4) else []
    for share in list(_shares(told)) or [LARGEST, 1 / LARGEST]:
        scale = math.sqrt(share)
        for step in (32, 16, 8, 4, 1):
            found.append((_near(height * scale, step), _near(width * scale, step)))
    most = LARGEST * height * width
    return [size for size in dict.fromkeys(found) if size != sample.size and size[0] * size[1] <= most]


def _near(side: float, step: int) -> int:
    return max(step, round(side / step) * step)


def _shares(told: str) -> Iterator[float]:
    """How many times the card's pixels the file may be made for."""
    for pattern in (_PRODUCT, _TOKENS):
        for given, taken in pattern.findall(told):
            yield int(taken) / int(given)
    for given, rows in _ROWS.findall(told):
        yield int(rows) / int(given)
    for sides, size in _RESHAPED.findall(told):
        yield abs(math.prod(int(side) for side in sides.split(","))) / int(size)
