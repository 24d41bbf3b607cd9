"""Which pictures a command line means, and where what is made of them goes."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from PIL import Image as Pil

from lightwell.parameters import Usage

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Of the files in a folder, those that are taken for pictures."""


WRITTEN = (".png", ".npy")
"""The endings of what is written where no file is named: of a picture, and of numbers."""
UNKNOWN = ".unknown"
"""The ending of a place whose answer will say it."""


@dataclass(frozen=True)
class Found:
    """A picture; `folder` is where it lies inside the folder that was named. Others were named themselves."""

    image: Path
    folder: Path = Path()
    named: bool = True


@dataclass(frozen=True)
class Plan:
    """A picture, and the files to write of it."""

    image: Path | None
    places: list[Path]

    @property
    def done(self) -> bool:
        """Whether all files are there: the first is written last."""
        return any(file.exists() for place in self.places[:1] for file in _files(place))


def found(words: Iterable[str]) -> list[Path]:
    """The pictures that files, folders and patterns mean, each once. Raises ValueError if there are none."""
    return [one.image for one in _found(words)]


def plans(words: Iterable[str], method: str, out: Path, top: int | None = None) -> list[Plan]:
    """What to write for files, folders and patterns. It is `out` itself if that names a file, else
    `<image>_<method>` in that directory, in the same folders as the images, with an ending that the answer gives; for
    the `top` classes a numbered file each. Raises `Usage` if `out` is one file for several images, or no file that can
    be written; ValueError if there are no images."""
    found = _found(words)
    if out.suffix and not out.is_dir():
        if len(found) > 1:
            raise Usage(f"--out {out} names one file for {len(found)} images; give a directory")
        places = [_named(out)]
    else:
        places = _places(found, method, out)
    planned = [Plan(one.image, _numbered(place, top)) for one, place in zip(found, places, strict=True)]
    # What an earlier run wrote into a folder of pictures is none of them.
    own = {file.absolute() for plan in planned for place in plan.places for file in _files(place)}
    pairs = zip(found, planned, strict=True)
    return [plan for one, plan in pairs if one.named or one.image.absolute() not in own]


def alone(method: str, out: Path, top: int | None = None) -> Plan:
    """What to write where there is no image: `out` itself if that names a file, else `<method>` in that directory."""
    place = _named(out) if out.suffix and not out.is_dir() else out / f"{method}{UNKNOWN}"
    return Plan(None, _numbered(place, top))


def picture(path: Path) -> Path:
    """The path, its ending known and its directory made: better to fail before the work than after it."""
    if path.suffix.lower() not in Pil.registered_extensions():
        raise Usage(f"{path}: the ending {path.suffix or 'is missing and'} says no format; use .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _named(path: Path) -> Path:
    """The path of a file of numbers or of a picture, its directory made."""
    if path.suffix.lower() != ".npy":
        return picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _files(place: Path) -> list[Path]:
    """The files that may be written for a place."""
    return [place.with_suffix(ending) for ending in WRITTEN] if place.suffix == UNKNOWN else [place]


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Writes a file as a whole or, whatever interrupts it, not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _found(words: Iterable[str]) -> list[Found]:
    """The pictures, each once, in the order of the words; those of one word sorted."""
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
    # A file may have brackets in its name. One that is not there is told when its turn comes.
    if path.exists() or not glob.has_magic(word):
        return [Found(path)]
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    return _inside(fixed, map(Path, glob.glob(word, recursive=True)))  # noqa: PTH207 - Path's ** finds folders alone


def _inside(folder: Path, files: Iterable[Path]) -> list[Found]:
    return [
        Found(file, file.parent.relative_to(folder), named=False)
        for file in sorted(files)
        if file.is_file() and not file.name.startswith(".")
    ]


def _places(found: list[Found], method: str, out: Path) -> list[Path]:
    """a, then a_2: images of the same name from several directories, or with several endings."""
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
