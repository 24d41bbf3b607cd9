"""Opens model files: TorchScript archives (traced, scripted, frozen) and `torch.export` programs. What is no model is
refused with a sentence that says what it is."""

from __future__ import annotations

import json
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._export.serde.schema import SCHEMA_VERSION
from torch.utils._pytree import tree_leaves, tree_unflatten

from lightwell_server.errors import Refused
from lightwell_server.models import asleep, exported, torchscript
from lightwell_server.models.memory import available
from lightwell_server.models.recorder import Recorder
from lightwell_server.models.views import Box

# TorchScript is what files are made of, whatever its future; and what a model warns of is not for our callers.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
warnings.filterwarnings("ignore", module=r"code/__torch__")

COPIES = 3
"""How many times its weights a model needs while it is lifted: the archive's pages, the module, the folded graph."""
_PROGRAM = re.compile(r"models/[^/]*\.json$|serialized_exported_program\.json$")
EXPORT = "export the network with torch.jit.trace, torch.jit.script or torch.export and bring that file"


class ModelFile(Protocol):
    """An opened file: its own function, and how that is recorded. `shape` is what its first input is declared as, the
    batch first, None where it is free; None if nothing is declared."""

    dtype: torch.dtype
    shape: tuple[int | None, ...] | None
    notes: list[str]

    @property
    def arguments(self) -> list[str]:
        """The names of its inputs."""

    @property
    def required(self) -> int:
        """How many of its inputs have no default."""

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Records the function; returns its outputs as boxes."""

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Runs the file's own function, dropouts and batch norms in eval mode."""

    def double(self) -> None:
        """From now on `run` computes in double precision."""


def opened(path: Path) -> ModelFile:
    """Opens a file on the CPU. Raises `Refused`."""
    names = _names(path)
    _fits(path)
    _known_schema(path)
    try:
        if any(name.startswith("code/") or name == "constants.pkl" for name in names):
            return Script(path)
        if any(name.startswith(("models/", "serialized_exported_program")) for name in names):
            return Program(path)
    except Refused:
        raise
    except Exception as error:  # whatever a reader raises, it is the file that cannot be read
        raise Refused(_unreadable(path, str(error))) from error
    if "data.pkl" in names:
        raise Refused(_pickled(path))
    raise Refused(f"{path.name} is a zip archive, but no model: it holds neither code nor a program; {EXPORT}")


@dataclass
class Script:
    """A TorchScript archive."""

    path: Path
    notes: list[str] = field(default_factory=list)
    shape: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        self.module = torch.jit.load(self.path, map_location="cpu")
        if getattr(self.module, "training", False):
            self.notes.append("the file was saved in training mode and is set to eval")
        self.module.eval()
        self.dtype = _commonest(self._weights())

    @property
    def arguments(self) -> list[str]:
        """The names of what forward takes."""
        return [argument.name for argument in self._arguments]

    @property
    def required(self) -> int:
        """How many of them have no default."""
        return sum(not argument.has_default_value() for argument in self._arguments)

    @property
    def _arguments(self) -> list[Any]:
        return list(self.module.forward.schema.arguments[1:])

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Interprets the module."""
        return torchscript.record(self.module, inputs, recorder)

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Calls the module."""
        return self._original(*inputs)

    def double(self) -> None:
        """Widens parameters and buffers; constants in the code stay."""
        self._original.double()

    @cached_property
    def _original(self) -> Any:  # noqa: ANN401
        return asleep.script(torch.jit.load(self.path, map_location="cpu").eval())

    def _weights(self) -> Iterator[Tensor]:
        yield from (tensor for tensor in self.module.state_dict().values() if isinstance(tensor, Tensor))
        for node in asleep.nodes(self.module.graph):
            if node.kind() == "prim::Constant" and node.hasAttributes():
                yield from (leaf for leaf in tree_leaves(node.output().toIValue()) if isinstance(leaf, Tensor))


@dataclass
class Program:
    """A `torch.export` program."""

    path: Path
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.program = torch.export.load(self.path)
        self.module: Any = self.program.module()
        self._original: Any = asleep.program(self.program).module()
        self.dtype = _commonest(tensor for tensor in self.module.state_dict().values() if isinstance(tensor, Tensor))
        names = self.program.graph_signature.user_inputs
        first = next((node for node in self.program.graph.nodes if names and node.name == names[0]), None)
        sizes = getattr(first.meta.get("val"), "shape", None) if first is not None else None
        self.shape = None if sizes is None else tuple(s if isinstance(s, int) else None for s in sizes)

    @property
    def arguments(self) -> list[str]:
        """The names of the program's inputs."""
        return [str(name) for name in self.program.graph_signature.user_inputs]

    @property
    def required(self) -> int:
        """All of them: an exported program has no defaults."""
        return len(self.arguments)

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Walks the program's graph."""
        return exported.record(self.module, inputs, recorder)

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Calls the program, by position and by name as it was exported."""
        args, kwargs = tree_unflatten(list(inputs), self.program.call_spec.in_spec)
        return self._original(*args, **kwargs)

    def double(self) -> None:
        """Widens parameters and buffers; types that the program names itself stay."""
        self._original.double()


def _names(path: Path) -> set[str]:
    """The names in the archive, each with and without its first folder."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            begins = file.read(4)
        if begins.startswith(b"PK"):
            raise Refused(f"{path.name} is truncated: the end of the archive is missing; copy it again")
        if begins.startswith(b"\x80"):
            raise Refused(f"{path.name} holds pickled weights or a pickled network, but no code; {EXPORT}")
        raise Refused(f"{path.name} is no TorchScript archive and no torch.export program; {EXPORT}")
    with zipfile.ZipFile(path) as archive:
        damaged = _damaged(archive)
        if damaged:
            raise Refused(f"{path.name} is damaged: {damaged} in it does not have its checksum; copy it again")
        names = archive.namelist()
    return {name.partition("/")[2] for name in names} | set(names)


def _damaged(archive: zipfile.ZipFile) -> str | None:
    """The first member that cannot be read as it was written."""
    for member in archive.infolist():
        try:
            with archive.open(member) as file:
                while file.read(2**24):
                    pass
        except (zipfile.BadZipFile, EOFError, OSError, ValueError):
            return member.filename
    return None


def _fits(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        needed = COPIES * sum(member.file_size for member in archive.infolist())
    free = available()
    if free is not None and needed > free:
        raise Refused(
            f"{path.name} needs about {needed / 2**30:.1f} GiB of memory to be lifted and {free / 2**30:.1f} GiB are "
            "free; give the server more memory, or store the weights as float16"
        )


def _known_schema(path: Path) -> None:
    """A program says in which version of the exporter's format it is written."""
    with zipfile.ZipFile(path) as archive:
        programs = [name for name in archive.namelist() if _PROGRAM.search(name)]
        versions = [json.loads(archive.read(name)).get("schema_version", {}).get("major") for name in programs]
    for major in versions:
        if isinstance(major, int) and major != SCHEMA_VERSION[0]:
            raise Refused(_newer(path) if major > SCHEMA_VERSION[0] else _older(path))


def _newer(path: Path) -> str:
    return (
        f"{path.name} was written by a newer torch than this one ({torch.__version__}); "
        "update torch, or export the model with this version"
    )


def _older(path: Path) -> str:
    return (
        f"{path.name} was written by a torch so old that this one ({torch.__version__}) cannot read it; "
        "export the model with this version"
    )


def _unreadable(path: Path, told: str) -> str:
    """The sentence for a file that torch cannot read."""
    if "maximum supported version" in told or "schema version" in told or "upgrader" in told:
        return _newer(path)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return f"{path.name} cannot be read ({lines[0] if lines else 'no reason given'}); {EXPORT}"


def _pickled(path: Path) -> str:
    """What a pickle holds, read without running it: the classes it names tell a network from weights."""
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


def _commonest(weights: Iterable[Tensor]) -> torch.dtype:
    """The floating type that most weights have."""
    counts = Counter[torch.dtype]()
    for tensor in weights:
        if tensor.is_floating_point():
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32
