"""The pictures that a command line names, and the paths of the output."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from PIL import Image as Pil

from lightwell.parameters import Usage

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""The endings of pictures in a folder."""


NUMBERS = (".npz", ".npy")
"""The endings of files of numbers."""
WRITTEN = (".png", ".npz")
"""The endings of output without a named file: of a picture, and of numbers."""
UNKNOWN = ".unknown"
"""The ending of an output path until the response decides on it."""


@dataclass(frozen=True)
class Found:
    """A picture. `named` is whether the command line names it itself; otherwise `folder` is its path within the folder
    that is named."""

    image: Path
    folder: Path = Path()
    named: bool = True


@dataclass(frozen=True)
class Plan:
    """A picture, a method, and the files to write for them."""

    image: Path | None
    method: str
    places: list[Path]

    @property
    def written(self) -> list[Path]:
        """The files that exist, if that includes the first one, which is written last; else none."""
        found = [[file for file in _files(place) if file.exists()] for place in self.places]
        return [file for files in found for file in files] if found[0] else []


def found(words: Iterable[str]) -> list[Path]:
    """The pictures that files, folders and patterns name, without duplicates. Raises ValueError if there are none."""
    return [one.image for one in _found(words)]


def plans(words: Iterable[str], methods: list[str], out: Path, top: int | None = None) -> list[Plan]:
    """The output for files, folders and patterns, for each of which all methods follow one another. It is `out` itself
    if that names a file, else `<image>_<method>` in that directory, in the same subfolders as the images, with an
    ending that depends on the response; for the `top` classes a numbered file each. Raises `Usage` if `out` is one file
    for several images or methods, or cannot be written; ValueError if there are no images."""
    found = _found(words)
    if _one_file(out):
        _check_alone(out, len(found), "images")
        _check_alone(out, len(methods), "methods")
        places = [[_named(out)]]
    else:
        places = [_places(found, method, out) for method in methods]
    pairs = [
        (one, Plan(one.image, method, _numbered(place, top)))
        for one, *row in zip(found, *places, strict=True)
        for method, place in zip(methods, row, strict=True)
    ]
    # The output of an earlier run in a folder of pictures is not explained.
    own = {file.absolute() for _, plan in pairs for place in plan.places for file in _files(place)}
    return [plan for one, plan in pairs if one.named or one.image.absolute() not in own]


def alone(methods: list[str], out: Path, top: int | None = None) -> list[Plan]:
    """The output without an image: `out` itself if that names a file, else `<method>` in that directory. Raises `Usage`
    as `plans` does."""
    if not _one_file(out):
        return [Plan(None, method, _numbered(out / f"{method}{UNKNOWN}", top)) for method in methods]
    _check_alone(out, len(methods), "methods")
    return [Plan(None, methods[0], _numbered(_named(out), top))]


def _one_file(out: Path) -> bool:
    return bool(out.suffix) and not out.is_dir()


def _check_alone(out: Path, count: int, what: str) -> None:
    if count > 1:
        raise Usage(f"--out {out} names one file for {count} {what}; give a directory")


def picture(path: Path) -> Path:
    """The path, after its ending is checked and its directory made: errors should come before the work. Raises
    `Usage`."""
    if path.suffix.lower() not in Pil.registered_extensions():
        raise Usage(f"{path}: the ending {path.suffix or 'is missing and'} says no format; use .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _named(path: Path) -> Path:
    """The path of a file of numbers or of a picture, after its directory is made."""
    if path.suffix.lower() not in NUMBERS:
        return picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _files(place: Path) -> list[Path]:
    """The files that may be written for an output path."""
    return [place.with_suffix(ending) for ending in WRITTEN] if place.suffix == UNKNOWN else [place]


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Writes a file completely, or not at all if it is interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _found(words: Iterable[str]) -> list[Found]:
    """The pictures without duplicates, in the order of the words; those of one word are sorted."""
    found: dict[Path, Found] = {}
    for word in words:
        here = _of_word(word)
        if not here:
            raise ValueError(f"{word}: no pictures there")
        for one in here:
            found.setdefault(one.image, one)
    return list(found.values())


def _of_word(word: str) -> list[Found]:
    path = Path(word)
    if path.is_dir():
        return _inside(path, (file for file in path.rglob("*") if file.suffix.lower() in ENDINGS))
    # A file may have brackets in its name. A missing one is reported when it is read.
    if path.exists() or not glob.has_magic(word):
        return [Found(path)]
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    return _inside(fixed, map(Path, glob.glob(word, recursive=True)))  # noqa: PTH207 - Path's ** finds folders alone


def _inside(folder: Path, files: Iterable[Path]) -> list[Found]:
    return [
        Found(file, file.parent.relative_to(folder), named=False)
        for file in sorted(files)
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _places(found: list[Found], method: str, out: Path) -> list[Path]:
    """Output paths a, then a_2, for images of the same name in several directories or with several endings."""
    taken: dict[Path, int] = {}
    places = []
    for one in found:
        stem = out / one.folder / one.image.stem
        taken[stem] = taken.get(stem, 0) + 1
        number = "" if taken[stem] == 1 else f"_{taken[stem]}"
        places.append(stem.with_name(f"{stem.name}{number}_{method}{UNKNOWN}"))
    return places


def _numbered(place: Path, top: int | None) -> list[Path]:
    if top is None:
        return [place]
    return [place.with_name(f"{place.stem}_top{number}{place.suffix}") for number in range(1, top + 1)]
