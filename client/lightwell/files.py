"""Where the command line puts its pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image as Pil

from lightwell.parameters import Usage


def per_image(images: list[Path], method: str, out: Path) -> list[Path]:
    """A file for each image: `out` itself if it names a picture, else `<image>_<method>.png` in that directory."""
    if out.suffix and not out.is_dir():
        if len(images) > 1:
            raise Usage(f"--out {out} names one file for {len(images)} images; give a directory")
        return [picture(out)]
    out.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    return [out / f"{_unique(image.stem, taken)}_{method}.png" for image in images]


def picture(path: Path) -> Path:
    """The path, its ending known and its directory made: better to fail before the work than after it."""
    if path.suffix.lower() not in Pil.registered_extensions():
        raise Usage(f"{path}: the ending {path.suffix or 'is missing and'} says no format; use .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _unique(stem: str, taken: dict[str, int]) -> str:
    """a, then a_2: images of the same name from several directories."""
    taken[stem] = taken.get(stem, 0) + 1
    return stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"
