"""A sheet as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from lightwell.sheets.cells import reduced, shown
from lightwell.sheets.table import Table

SIDE = 240
"""The longer side in pixels of the images in a table."""
_EDGE = 170
"""The width in pixels of the column of labels."""
_GAP = 10
_SIZE, _LINE = 15, 19
"""The height of letters, and of a line of them, in pixels."""
_PAPER, _INK, _PALE, _BOX = (255, 255, 255), (30, 30, 30), (110, 110, 110), (240, 240, 240)


def drawn(table: Table) -> Pil.Image:
    """A picture with labels above the columns and beside the rows, and the images that were sent in the first
    column."""
    known = {id(row.image): row.image for row in table.rows}
    originals = {number: reduced(image, SIDE) for number, image in known.items()}
    heads = [["original"], *(column.labels for column in table.columns)]
    top = max(_height(labels, SIDE) for labels in heads) + 2 * _GAP
    labels = [table.labels(i) for i in range(len(table.rows))]
    heights = [
        max(originals[id(row.image)].height, _height(words, _EDGE)) + _GAP
        for row, words in zip(table.rows, labels, strict=True)
    ]
    *tops, bottom = accumulate(heights, initial=top)
    picture = Pil.new("RGB", (_EDGE + 2 * _GAP + len(heads) * (SIDE + _GAP), bottom), _PAPER)
    for j, words in enumerate(heads):
        _write(picture, words, (_left(j), _GAP), SIDE)
    for i, row in enumerate(table.rows):
        original = originals[id(row.image)]
        _write(picture, labels[i], (_GAP, tops[i]), _EDGE)
        picture.paste(original, (_left(0), tops[i]))
        for j, answer in enumerate(table.answers[i], 1):
            _put(picture, shown(answer, original), (_left(j), tops[i]), original.size)
    return picture


def _left(column: int) -> int:
    return _EDGE + 2 * _GAP + column * (SIDE + _GAP)


def _put(onto: Pil.Image, what: Pil.Image | str, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Puts a picture, or text in a box of the given size."""
    if isinstance(what, Pil.Image):
        onto.paste(what, place)
        return
    left, top = place
    box = Pil.new("RGB", size, _BOX)  # text that is too long is cut at its edge
    _write(box, what.splitlines(), (_GAP, _GAP), size[0] - 2 * _GAP)
    onto.paste(box, (left, top))


def _write(onto: Pil.Image, labels: Sequence[str], place: tuple[int, int], width: int) -> None:
    """Writes each label on its own lines, the first dark, the others pale."""
    draw, font, (left, top) = ImageDraw.Draw(onto), ImageFont.load_default(_SIZE), place
    for i, label in enumerate(labels):
        for line in _lines(label, width):
            draw.text((left, top), line, _PALE if i else _INK, font)
            top += _LINE


def _height(labels: Sequence[str], width: int) -> int:
    return _LINE * sum(len(_lines(label, width)) for label in labels)


def _lines(label: str, width: int) -> list[str]:
    """A label in lines that fit into a width, broken at spaces, or within words that are too long."""
    font, lines = ImageFont.load_default(_SIZE), [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]
