"""Finds out, by running a file, which numbers of rows, which size and which channels it takes if it does not run as the
card says."""

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
"""The largest size that is tried, in multiples of the card's pixels."""
_PRODUCT = re.compile(r"\(\d+x(\d+) and (\d+)x\d+\)")
"""A matrix product whose factors do not fit: the columns of the first, and the rows of the second."""
_TOKENS = re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")
_RESHAPED = re.compile(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)")
_ROWS = re.compile(r"gives ([1-9]\d*) rows for (\d+)")
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+)")


def fixed_rows(file: ModelFile, sample: Sample) -> int | None:
    """The number of rows that the file takes if it takes no other, because it is hard-coded in its shapes."""
    rows = next((count for count in file.counts if runs(file, sample, count)), None)
    return None if rows is None or runs(file, sample, rows + 1) else rows


def runs(file: ModelFile, sample: Sample, count: int) -> bool:
    """Whether the file takes `count` rows and returns as many."""
    return failure(file, sample, count) is None


def failure(file: ModelFile, sample: Sample, count: int) -> str | None:
    """The file's error for `count` rows; None if it returns as many."""
    try:
        given = [leaf for _, leaf in outputs.leaves(file.run(sample.example(count, file.dtype)))]
    except Exception as error:  # any error of the file counts
        return last_line(error).removeprefix("RuntimeError: ")
    rows = [leaf.shape[0] if leaf.dim() else 0 for leaf in given if isinstance(leaf, Tensor)]
    return None if count in rows else f"it gives {rows[0] if rows else 'no'} rows for {count}"


def takes(file: ModelFile, sample: Sample) -> bool:
    """Whether the file runs as the card says, with any number of rows that may be hard-coded in it."""
    return any(runs(file, sample, count) for count in file.counts)


def whatever_rows(file: ModelFile, sample: Sample, reason: str) -> bool:
    """Whether the file fails in the same way for one row and for two: then the number of rows is not the cause."""
    found = _mismatch(reason)
    return any(found) and _mismatch(failure(file, sample, 2) or "") == found


def _mismatch(reason: str) -> tuple[list[float], list[tuple[str, str]]]:
    """The sizes and channels in an error that do not fit."""
    return list(_shares(reason)), _CHANNELS.findall(reason)


def explained(file: ModelFile, sample: Sample, reason: str) -> str:
    """The error, with advice if the file does not run as the card says."""
    if takes(file, sample):
        return reason
    setting = mended(file, sample, reason)
    return f"{reason}; {setting}" if setting else instead(file, sample, reason)


def mended(file: ModelFile, sample: Sample, reason: str) -> str | None:
    """What to set in the card, if the file that failed runs with it."""
    for other, setting in _others(file, sample, reason):
        if any(runs(file, other, count) for count in _affordable(file, sample, other)):
            return f"the file runs with {setting}: set it in the card"
    return None


def instead(file: ModelFile, sample: Sample, reason: str) -> str:
    """What the file takes in place of an image, or the error if it fails whatever the card says."""
    if sample.kind == "generator":
        return reason
    height, width = sample.size
    own = f"so does the file itself on images of {height} x {width}, as the card has them: export it for those"
    return inputs.instead(file) or f"{reason}; {own}"


def _affordable(file: ModelFile, sample: Sample, other: Sample) -> Iterator[int]:
    """The numbers of rows that another sample is tried with: those that cost no more than recording the file as the
    card says, or all if its size is that of the trace's sample."""
    most = BATCH * math.prod(sample.size)
    for count in file.counts[:2]:
        if count * math.prod(other.size) <= most or other.size == _own_size(file, sample):
            yield count


def _others(file: ModelFile, sample: Sample, reason: str) -> Iterator[tuple[Sample, str]]:
    """Samples that the file may take, each with the setting for the card."""
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
    """Sizes that the file may be made for: that of the trace's sample, and those suggested by the numbers in the
    error."""
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
    """The size of the sample that the file was traced with, if it is known."""
    sides = file.sampled[-3:-1] if sample.layout == "nhwc" else file.sampled[-2:]
    return (sides[0], sides[1]) if len(file.sampled) in (3, 4) else None


def _near(side: float, step: int) -> int:
    return max(step, round(side / step) * step)


def _shares(reason: str) -> Iterator[float]:
    """The sizes that the file may be made for, in multiples of the card's pixels."""
    for pattern in (_PRODUCT, _TOKENS):
        for given, taken in pattern.findall(reason):
            yield int(taken) / int(given)
    for given, rows in _ROWS.findall(reason):
        yield int(rows) / int(given)
    for sides, size in _RESHAPED.findall(reason):
        yield abs(math.prod(int(side) for side in sides.split(","))) / int(size)
