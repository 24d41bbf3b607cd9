"""Where a file cannot be run as the card says: which numbers of rows, which size and which channels it takes, found out
by running it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from lightwell_server.errors import last_line
from lightwell_server.models.lifting import inputs, outputs
from lightwell_server.models.lifting.files import ModelFile
from lightwell_server.models.lifting.sample import Sample
from lightwell_server.models.nodes import BATCH

LARGEST = 4
"""How many times the card's pixels a size may have that is tried."""
_PRODUCT = re.compile(r"\(\d+x(\d+) and (\d+)x\d+\)")
"""Two matrices that do not fit: what a layer is given of each row, and what it takes."""
_TOKENS = re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")
_RESHAPED = re.compile(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)")
_ROWS = re.compile(r"gives ([1-9]\d*) rows for (\d+)")
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+)")


def fixed_rows(file: ModelFile, sample: Sample) -> int | None:
    """The number of rows that the file takes if it takes no other; it was written into the file's shapes for good."""
    rows = next((count for count in file.counts if runs(file, sample, count)), None)
    return None if rows is None or runs(file, sample, rows + 1) else rows


def runs(file: ModelFile, sample: Sample, count: int) -> bool:
    """Whether the file itself takes that many rows, and gives as many."""
    return failure(file, sample, count) is None


def failure(file: ModelFile, sample: Sample, count: int) -> str | None:
    """What the file itself fails with for that many rows; None if it gives as many."""
    try:
        given = [leaf for _, leaf in outputs.leaves(file.run(sample.example(count, file.dtype)))]
    except Exception as error:  # a file refuses what it does not take in its own words
        return last_line(error).removeprefix("RuntimeError: ")
    rows = [leaf.shape[0] if leaf.dim() else 0 for leaf in given if isinstance(leaf, Tensor)]
    return None if count in rows else f"it gives {rows[0] if rows else 'no'} rows for {count}"


def takes(file: ModelFile, sample: Sample) -> bool:
    """Whether the file runs as the card says, with any number of rows that it may be written for."""
    return any(runs(file, sample, count) for count in file.counts)


def whatever_rows(file: ModelFile, sample: Sample, reason: str) -> bool:
    """Whether what a file fails with for one row it fails with for two: then the number of rows is not the cause."""
    found = _mismatch(reason)
    return any(found) and _mismatch(failure(file, sample, 2) or "") == found


def _mismatch(reason: str) -> tuple[list[float], list[tuple[str, str]]]:
    """What does not fit, by what a file fails with."""
    return list(_shares(reason)), _CHANNELS.findall(reason)


def explained(file: ModelFile, sample: Sample, reason: str) -> str:
    """What a file fails with, and what to do where it does not run as the card says."""
    if takes(file, sample):
        return reason
    setting = mended(file, sample, reason)
    return f"{reason}; {setting}" if setting else instead(file, sample, reason)


def mended(file: ModelFile, sample: Sample, reason: str) -> str | None:
    """What to set in the card, if the file that fails so runs with that."""
    for other, setting in _others(file, sample, reason):
        if any(runs(file, other, count) for count in _affordable(file, sample, other)):
            return f"the file runs with {setting}: set it in the card"
    return None


def instead(file: ModelFile, sample: Sample, reason: str) -> str:
    """What a file takes in place of an image, or what it fails with, whatever the card says."""
    if sample.kind == "generator":
        return reason
    height, width = sample.size
    own = f"so does the file itself on images of {height} x {width}, as the card has them: export it for those"
    return inputs.instead(file) or f"{reason}; {own}"


def _affordable(file: ModelFile, sample: Sample, other: Sample) -> Iterator[int]:
    """The numbers of rows that another sample is tried with: those that cost no more than to record the file as the
    card says, and where the size is that of the file's own sample all."""
    most = BATCH * math.prod(sample.size)
    for count in file.counts[:2]:
        if count * math.prod(other.size) <= most or other.size == _own_size(file, sample):
            yield count


def _others(file: ModelFile, sample: Sample, reason: str) -> Iterator[tuple[Sample, str]]:
    """Samples that the file may take, and what the card would say of them."""
    if sample.kind == "generator":
        return
    found = _CHANNELS.search(reason)
    if found:
        count = int(found[1])
        plain = replace(sample, channels=count, mean=(0.0,) * count, std=(1.0,) * count, tensor=count not in (1, 3))
        yield plain, f"input.channels = {count}"
    for height, width in _sizes(file, sample, reason):
        yield replace(sample, size=(height, width)), f"input.size = [{height}, {width}]"


def _sizes(file: ModelFile, sample: Sample, reason: str) -> list[tuple[int, int]]:
    """Sizes that the file may be made for: that of its sample, and those at which the numbers would be right."""
    height, width = sample.size
    own = _own_size(file, sample)
    found = [own] if own else []
    for share in list(_shares(reason)) or [LARGEST, 1 / LARGEST]:
        scale = math.sqrt(share)
        for step in (32, 16, 8, 4, 1):
            found.append((_near(height * scale, step), _near(width * scale, step)))
    most = LARGEST * height * width
    return [size for size in dict.fromkeys(found) if size != sample.size and size[0] * size[1] <= most]


def _own_size(file: ModelFile, sample: Sample) -> tuple[int, int] | None:
    """The size of the sample that the file was traced with, if it keeps that."""
    sides = file.sampled[-3:-1] if sample.layout == "nhwc" else file.sampled[-2:]
    return (sides[0], sides[1]) if len(file.sampled) in (3, 4) else None


def _near(side: float, step: int) -> int:
    return max(step, round(side / step) * step)


def _shares(reason: str) -> Iterator[float]:
    """How many times the card's pixels the file may be made for."""
    for pattern in (_PRODUCT, _TOKENS):
        for given, taken in pattern.findall(reason):
            yield int(taken) / int(given)
    for given, rows in _ROWS.findall(reason):
        yield int(rows) / int(given)
    for sides, size in _RESHAPED.findall(reason):
        yield abs(math.prod(int(side) for side in sides.split(","))) / int(size)
