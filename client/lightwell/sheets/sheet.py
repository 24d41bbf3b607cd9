"""One picture or page of many results: images x models x targets in rows, methods x parameters in columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pil

from lightwell import images
from lightwell.sheets import page, picture
from lightwell.sheets.table import Table


@dataclass(frozen=True)
class Sheet(Table):
    """Results in rows and columns. In a notebook it shows its picture."""

    def picture(self) -> Pil.Image:
        """All results in one picture, with the images that were sent in the first column."""
        return picture.drawn(self)

    def html(self) -> str:
        """All results on one self-contained HTML page."""
        return page.page(self)

    def save(self, path: str | Path) -> None:
        """Writes the page if the path ends in .html, else the picture."""
        if Path(path).suffix.lower() == ".html":
            Path(path).write_text(self.html(), "utf-8")
        else:
            self.picture().save(path)

    def _repr_png_(self) -> bytes:
        return images.png(self.picture())
