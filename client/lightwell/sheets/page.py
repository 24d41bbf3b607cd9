"""A sheet as an HTML page; `sheet.html` is its template."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from PIL import Image as Pil

from lightwell import images
from lightwell.sheets.cells import reduced, shown
from lightwell.sheets.table import Table

SIDE = 320
"""The longer side in pixels of the images on a page."""
_PADDING = 10


def page(table: Table) -> str:
    """A page with labels above the columns and beside the rows, and the images that were sent in the first column."""
    known = {id(row.image): row.image for row in table.rows}
    originals = {number: reduced(image, SIDE) for number, image in known.items()}
    heads = [["original"], *(column.labels for column in table.columns)]
    rows = (_row(table, i, originals[id(row.image)]) for i, row in enumerate(table.rows))
    frame = Template(Path(__file__).with_name("sheet.html").read_text("utf-8"))
    return frame.substitute(side=SIDE, inner=SIDE - 2 * _PADDING, heads="".join(map(_label, heads)), rows="".join(rows))


def _row(table: Table, number: int, original: Pil.Image) -> str:
    labels = table.labels(number)
    names = [" ".join(column.labels) for column in table.columns]
    cells = [_cell(original, labels[0])]
    cells += [
        _cell(shown(answer, original), f"{name} of {', '.join(labels)}")
        for name, answer in zip(names, table.answers[number], strict=True)
    ]
    return f"<tr>{_label(labels)}{''.join(cells)}</tr>\n"


def _label(words: Iterable[str]) -> str:
    first, *rest = words
    return f"<th>{escape(first)}{''.join(f'<span>{escape(word)}</span>' for word in rest)}</th>"


def _cell(what: Pil.Image | str, alt: str) -> str:
    if isinstance(what, str):
        return f"<td><p>{escape(what)}</p></td>"
    data = base64.b64encode(images.png(what)).decode()
    return f'<td><img src="data:image/png;base64,{data}" width="{what.width}" alt="{escape(alt)}"></td>'
