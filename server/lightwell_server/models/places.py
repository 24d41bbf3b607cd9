"""Where in the image values come from: each value has a box of the image.

The boxes of a tensor's values are kept in a tensor of the same shape, so that an operation that moves values moves
their boxes too. A box is top, left, bottom, right in steps of 1 / `SIDE` of the image, packed into one number that is
exact in float64. `NOWHERE` is the box of values that do not come from the image, such as weights and padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightwell_server.contract import Grid

SIDE = 8064
"""Steps along a side of the image; the usual numbers of patches and pixels divide it."""
NOWHERE = 0.0
_BITS = 13
_LAST = (1 << _BITS) - 1
_SLACK = 2
"""Steps by which rounding may move a side."""
_OFF, _LEAST = 0.45, 0.4
"""As shares of a cell's side: how far a box may lie off the cell's centre, and how long its sides must be at least."""
_NEAR = SIDE // 16
"""Steps that a box may lie off its cell's centre where cells are smaller: maps are stretched over the whole image, also
those of values that were cropped a little."""


def everywhere(shape: Sequence[int]) -> Tensor:
    """The boxes of values that come from the whole image."""
    return torch.tensor(float((SIDE << _BITS) + SIDE), dtype=torch.double).expand(tuple(shape))


def nowhere(shape: Sequence[int]) -> Tensor:
    """The boxes of values that do not come from the image."""
    return torch.tensor(NOWHERE, dtype=torch.double).expand(tuple(shape))


def pixels(shape: Sequence[int]) -> Tensor:
    """The boxes of images [n, channels, height, width]: one for each pixel."""
    down, across = (-(torch.arange(side + 1) * -SIDE // side) for side in shape[-2:])
    sides = (down[:-1, None], across[:-1], down[1:, None], across[1:])
    return _packed(*(side.expand(*shape[-2:]) for side in sides)).expand(tuple(shape))


def lean(boxes: Tensor) -> Tensor:
    """The same boxes, expanded along dimensions where they are all the same."""
    few = _once(boxes)
    for dim, size in enumerate(few.shape):
        first = few.narrow(dim, 0, 1) if size > 1 else few
        few = first if size > 1 and bool((few == first).all()) else few
    return few.expand(boxes.shape)


def content(boxes: Tensor) -> bytes:
    """A key by which boxes of equal shape are compared."""
    few = _once(boxes)
    return repr(tuple(few.shape)).encode() + few.numpy().tobytes()


def merged(boxes: Tensor, dims: Sequence[int]) -> Tensor:
    """The boxes around all values along some dimensions, which become of size one."""
    few, dims = _once(boxes), [dim % boxes.dim() for dim in dims]
    if any(few.shape[dim] > 1 for dim in dims):
        top, left, bottom, right = _sides(few)
        few = _packed(top.amin(dims, True), left.amin(dims, True), bottom.amax(dims, True), right.amax(dims, True))
    return few.expand([1 if dim in dims else size for dim, size in enumerate(boxes.shape)])


def met(first: Tensor, second: Tensor, weighed: bool = False) -> Tensor:
    """The boxes of a pointwise operation. If one box lies within the other, the smaller one, as for a position
    multiplied by the mean of all. Else, if one argument is a grid and the result is not, the grid's. Else the box
    around both, or the first one if it is `weighed` by the second, as a query by all keys."""
    shape = torch.broadcast_tensors(first, second)[0].shape  # torch.broadcast_shapes imports sympy
    one, other = _once(first), _once(second)
    if _nowhere(other) or (one.shape == other.shape and torch.equal(one, other)):
        return one.expand(shape)
    if _nowhere(one):
        return other.expand(shape)
    a, b = _sides(one), _sides(other)
    around = _packed(*map(torch.minimum, a[:2], b[:2]), *map(torch.maximum, a[2:], b[2:]))
    apart = one if weighed else around
    found = torch.where(around == one, other, torch.where(around == other, one, apart))
    found = torch.where(one == NOWHERE, other, torch.where(other == NOWHERE, one, found)).expand(shape)
    if weighed or grid(found) is not None:
        return found
    return next((boxes for boxes in (first, second) if boxes.shape == shape and grid(boxes) is not None), found)


def resampled(boxes: Tensor, dim: int, size: int) -> Tensor:
    """The boxes after a convolution, a pooling or an interpolation along a dimension: its positions are spread evenly
    over those that it reads, without the padding."""
    shape = [size if i == dim % boxes.dim() else side for i, side in enumerate(boxes.shape)]
    few = _once(boxes)
    if boxes.shape[dim] == size or few.shape[dim] == 1:
        return few.expand(shape)
    there = (few != NOWHERE).movedim(dim, 0).flatten(1).any(1).nonzero().flatten().tolist() or [0]
    few = few.narrow(dim, there[0], there[-1] - there[0] + 1)
    count, place = few.shape[dim], torch.arange(size)
    # A position begins within the old position `low` and ends within `high`.
    low, high = place * count // size, ((place + 1) * count - 1) // size
    begins, ends = few.index_select(dim, low), few.index_select(dim, high)
    across = [size if i == dim % few.dim() else 1 for i in range(few.dim())]
    shares = ((place * count / size - low).view(across), ((place + 1) * count / size - high).view(across))
    top, bottom = _spread(few, (begins, ends), shares, dim, 0)
    left, right = _spread(few, (begins, ends), shares, dim, 1)
    padded = (begins == NOWHERE) | (ends == NOWHERE)
    return _packed(top, left, bottom, right).masked_fill(padded, NOWHERE).expand(shape)


def _spread(
    old: Tensor, ends: tuple[Tensor, Tensor], shares: tuple[Tensor, Tensor], dim: int, side: int
) -> tuple[Tensor, Tensor]:
    """Where new positions begin and end in height (`side` 0) or width (1), if that runs along the dimension."""
    (low, up), (lower, upper) = ((_sides(one)[side], _sides(one)[side + 2]) for one in ends)
    start = _sides(old)[side]
    if bool((start == start.narrow(dim, 0, 1)).all()):
        return torch.minimum(low, lower), torch.maximum(up, upper)
    begin = (low + (up - low) * shares[0]).round().long()
    end = (lower + (upper - lower) * shares[1]).round().long()
    return torch.minimum(begin, end), torch.maximum(begin, end)


def grid(boxes: Tensor) -> tuple[Grid, bool] | None:
    """The grid of values [n, channels, height, width] or [n, height, width, channels], or of tokens [n, tokens,
    channels] in row-major order; and whether the channels come last. None if their boxes are not a grid."""
    if 0 in boxes.shape:
        return None
    if boxes.dim() == 3:
        found = _tokens(merged(boxes, (2,))[0, :, 0])
        return None if found is None else (found, True)
    if boxes.dim() != 4:
        return None
    for last in (False, True):
        places = merged(boxes, (3,))[0, :, :, 0] if last else merged(boxes, (1,))[0, 0]
        if _in_place(places):
            return Grid(*places.shape), last
    return None


def _tokens(boxes: Tensor) -> Grid | None:
    """The grid of a sequence of tokens, with others before or after it that come from nowhere or from the whole
    image."""
    top, left, bottom, right = _sides(boxes)
    whole = (top <= _SLACK) & (left <= _SLACK) & (bottom >= SIDE - _SLACK) & (right >= SIDE - _SLACK)
    placed = ((boxes != NOWHERE) & ~whole).nonzero().flatten().tolist()
    if not placed:
        return None
    front, stop = placed[0], placed[-1] + 1
    again = (left[front:stop] <= left[front] + _SLACK).nonzero().flatten().tolist()  # where rows begin
    columns = again[1] if len(again) > 1 else stop - front
    if (stop - front) % columns or not _in_place(boxes[front:stop].view(-1, columns)):
        return None
    return Grid((stop - front) // columns, columns, front, len(boxes) - stop)


def _in_place(boxes: Tensor) -> bool:
    """Whether boxes [rows, columns] lie where a map of that size shows them when it is enlarged to the whole image."""
    if bool((boxes == NOWHERE).any()):
        return False
    top, left, bottom, right = _sides(boxes)
    rows, columns = boxes.shape
    for begin, end, count, across in ((top, bottom, rows, (-1, 1)), (left, right, columns, (1, -1))):
        middles = ((torch.arange(count) + 0.5) * SIDE / count).view(across)
        near = max(_OFF * SIDE / count, _NEAR) + _SLACK
        astray = ((begin + end) / 2 - middles).abs() > near
        small = end - begin < _LEAST * SIDE / count - _SLACK  # several values of one position each show a part of it
        if bool((astray | small).any()):
            return False
    return True


def _once(boxes: Tensor) -> Tensor:
    """The boxes without the copies along expanded dimensions."""
    for dim, (size, stride) in enumerate(zip(boxes.shape, boxes.stride(), strict=True)):
        boxes = boxes.narrow(dim, 0, 1) if size > 1 and stride == 0 else boxes
    return boxes


def _nowhere(boxes: Tensor) -> bool:
    return boxes.numel() == 1 and boxes.item() == NOWHERE


def _packed(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    packed = (((top << _BITS | left) << _BITS) | bottom) << _BITS | right
    return packed.masked_fill(bottom == 0, NOWHERE).double()


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, bottom, right. `NOWHERE` becomes an empty box that changes no box around it and others."""
    packed = boxes.long()
    top, left, bottom, right = (packed >> shift & _LAST for shift in (3 * _BITS, 2 * _BITS, _BITS, 0))
    nothing = packed == 0
    return top.masked_fill(nothing, SIDE), left.masked_fill(nothing, SIDE), bottom, right
