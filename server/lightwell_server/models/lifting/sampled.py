"""The sample that a trace was made on. TorchScript stores its inputs, whose shapes are read without running
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
    """An input: its sizes, None where one is free, and whether it is uint8."""

    sizes: tuple[int | None, ...]
    integers: bool


def sampled(path: Path) -> Sampled | None:
    """The first input of a trace's sample, if it is in the file."""
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
    """Reads TorchScript's pickles with shapes in place of tensors. Nothing that they name is imported."""

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
        """Whether a storage is uint8."""
        return bool(pid[1] == "ByteStorage")
