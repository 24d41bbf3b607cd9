"""The sample that a trace was made on: TorchScript keeps its inputs, and their shapes are read without running
anything."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sampled:
    """An input: its sizes, None where one is free, and whether it holds integers of 8 bits."""

    sizes: tuple[int | None, ...]
    integers: bool


def sampled(path: Path) -> Sampled | None:
    """The first input of a trace's sample, if the file keeps it."""
    with zipfile.ZipFile(path) as archive:
        return sampled_in(archive, {name.partition("/")[2] or name: name for name in archive.namelist()})


def sampled_in(archive: zipfile.ZipFile, members: Mapping[str, str]) -> Sampled | None:
    """The first input of a trace's sample."""
    if "traced_inputs.pkl" not in members:
        return None
    with suppress(pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        inputs = _Shapes(io.BytesIO(archive.read(members["traced_inputs.pkl"]))).load()["forward"]
        return next(_tensors(inputs), None)
    return None


def _tensors(value: Any) -> Iterator[Sampled]:  # noqa: ANN401
    """The tensors within lists and tuples."""
    if isinstance(value, Sampled):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _Shapes(pickle.Unpickler):
    """Reads a pickle of TorchScript's with shapes in place of tensors; nothing that it names is imported."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        return {
            "_rebuild_tensor_v2": lambda integers, _, sizes, *rest: Sampled(sizes, integers),
            "restore_type_tag": lambda value, tag: value,
            "build_tensorlist": lambda values: values,
            "build_intlist": lambda values: values,
            "build_doublelist": lambda values: values,
            "build_boollist": lambda values: values,
            "OrderedDict": dict,
        }.get(name, name)

    def persistent_load(self, pid: Any) -> bool:  # noqa: ANN401
        """Of a storage whether it holds integers of 8 bits."""
        return bool(pid[1] == "ByteStorage")
