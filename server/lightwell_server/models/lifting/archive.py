"""Checks a model's archive before torch reads it: whether it is intact, what it holds, and whether it fits into
memory."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import torch
from torch._export.serde.schema import SCHEMA_VERSION

from lightwell_server.errors import Refused
from lightwell_server.models.disk import regular
from lightwell_server.models.lifting import foreign
from lightwell_server.models.lifting.foreign import EXPORT
from lightwell_server.resources import free_memory

COPIES = 3
"""The memory needed while a model is lifted, in multiples of its weights: the archive's pages, the module, the
graph."""
_PROGRAM = re.compile(r"models/[^/]*\.json$|serialized_exported_program\.json$")


Form = Literal["script", "program"]


def form(path: Path) -> Form:
    """Whether a file holds TorchScript or a program, by its content. Raises `Refused` that says what it holds
    otherwise."""
    if path.is_dir():
        raise Refused(f"{path.name} is a directory; bring the model file in it")
    if not regular(path).stat().st_size:
        raise Refused(f"{path.name} is empty; copy it again")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            begins = file.read(foreign.READ)
        if begins.startswith(b"PK"):
            raise Refused(f"{path.name} is truncated: the end of the archive is missing; copy it again")
        raise Refused(f"{path.name} {foreign.beginning(begins)}")
    with zipfile.ZipFile(path) as archive:
        listed = archive.namelist()
    names = {name.partition("/")[2] for name in listed} | set(listed)  # with and without the archive's top folder
    if any(name.startswith("code/") for name in names):
        return "script"
    if any(_PROGRAM.search(name) for name in listed):
        return "program"
    if "data.pkl" in names and "bytecode.pkl" not in names:
        raise Refused(_pickled(path))
    raise Refused(f"{path.name} {foreign.members(names)}")


def whole(path: Path) -> None:
    """Raises `Refused` if a member of the archive is damaged."""
    with zipfile.ZipFile(path) as archive:
        damaged = _damaged(archive)
    if damaged:
        raise Refused(f"{path.name} is damaged: {damaged} in it does not have its checksum; copy it again")


def _damaged(archive: zipfile.ZipFile) -> str | None:
    """The first member that cannot be read or does not match its checksum."""
    for member in archive.infolist():
        try:
            with archive.open(member) as file:
                while file.read(2**24):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError):
            return member.filename
    return None


def dated(path: Path) -> bool:
    """Whether it was written before torch 2.1, the first version whose archives state their byte order."""
    with zipfile.ZipFile(path) as archive:
        return not any(name.endswith("/byteorder") for name in archive.namelist())


def fits(path: Path) -> None:
    """Raises `Refused` if there is not enough memory to lift it."""
    with zipfile.ZipFile(path) as archive:
        needed = COPIES * sum(member.file_size for member in archive.infolist())
    free = free_memory()
    if free is not None and needed > free:
        raise Refused(
            f"{path.name} needs about {needed / 2**30:.1f} GiB of memory to be lifted and {free / 2**30:.1f} GiB are "
            "free; give the server more memory, or store the weights as float16"
        )


def known(path: Path) -> None:
    """Raises `Refused` if its code is compiled for another runtime, or its program is in a version of the export format
    that this torch does not know."""
    if compiled := foreign.compiled(path):
        raise Refused(f"{path.name} {compiled}")
    with zipfile.ZipFile(path) as archive:
        programs = [name for name in archive.namelist() if _PROGRAM.search(name)]
        try:
            versions = [json.loads(archive.read(name)).get("schema_version") for name in programs]
        except (ValueError, AttributeError) as error:
            raise Refused(f"{path.name} holds a program that is no JSON ({error}); {EXPORT}") from error
    for version in versions:
        major = version.get("major") if isinstance(version, dict) else version  # an integer until torch 2.2
        if isinstance(major, int) and major != SCHEMA_VERSION[0]:
            raise Refused(_newer(path) if major > SCHEMA_VERSION[0] else _older(path))


def _newer(path: Path) -> str:
    return (
        f"{path.name} was written by a newer torch than this one ({torch.__version__}); "
        "update torch, or export the model with this version"
    )


def _older(path: Path) -> str:
    return (
        f"{path.name} was written in a format of torch.export that is too old for this torch ({torch.__version__}); "
        "export the network again with torch 2.6 or newer"
    )


def unreadable(path: Path, reason: str) -> str:
    """The error message for a file that torch cannot read."""
    if unknown := re.search(r"Unknown type name '__torch__\.torch\.classes\.([\w.]+)'", reason):
        return (
            f"{path.name} holds an object of a class {unknown[1]} that this torch does not know, as a compiler's or a "
            "library's own is; save the network before it is compiled"
        )
    if "maximum supported version" in reason or "schema version" in reason or "upgrader" in reason:
        return _newer(path)
    if not torch.cuda.is_available() and re.search(r"CUDA|NVIDIA", reason):
        return f"{path.name} was exported on a GPU and names it, and there is none here; export the network on the CPU"
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return f"{path.name} cannot be read ({lines[0] if lines else 'no reason given'}); {EXPORT}"


def _pickled(path: Path) -> str:
    """The error message for a pickle, read without running it: the classes that it names distinguish a network from
    weights."""
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        named = _classes(archive.read(member))
    own = [
        name for name in named if not name.startswith(("torch._utils.", "collections.", "torch.Float", "torch.Long"))
    ]
    networks = [name for name in own if "Storage" not in name and not name.startswith(("torch.serial", "numpy."))]
    if networks:
        return f"{path.name} is a pickled network ({networks[0]}) without its code; {EXPORT}"
    return f"{path.name} holds weights (a state dict) and no code; load them into their network; {EXPORT}"


def _classes(pickled: bytes) -> list[str]:
    """The dotted names of the classes and functions that a pickle refers to."""
    found: list[str] = []
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL":
            found.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return found
