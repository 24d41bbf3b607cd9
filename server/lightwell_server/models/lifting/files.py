"""Opens model files: TorchScript archives (traced, scripted, frozen) and `torch.export` programs. Other files are
refused with a message that says what they are."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils._pytree import tree_leaves, tree_unflatten

from lightwell_server.errors import Refused
from lightwell_server.models.lifting import (
    archive,
    constants,
    devices,
    eval_mode,
    exported,
    interpolation,
    libraries,
    torchscript,
)
from lightwell_server.models.lifting.quiet import quiet
from lightwell_server.models.lifting.recorder import ROUNDS, Recorder
from lightwell_server.models.lifting.sampled import sampled
from lightwell_server.models.lifting.views import Box

_LOGS = [
    logging.getLogger(name)
    for name in ("torch.export", "torch.export.pt2_archive._package", "torch._export.serde.serialize")
]
_READING = threading.Lock()
"""One program is read at a time: torch has a global variable for the current one, and imports its compiler for the
first, which other threads must not see half done."""


@dataclass(frozen=True)
class Limit:
    """The limits that a program declares for a size of its image: minimum, maximum (None: any), and what it is a
    multiple of."""

    least: int
    most: int | None
    step: int


FIXED = (1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 32, 64)
"""Numbers of rows that may be hard-coded in a script."""


class ModelFile(Protocol):
    """An opened file: its function, and how to record it.

    - `dtype`, `stored`: the dtype that it is recorded in, and that of its weights.
    - `shape`: the declared shape of its first input, batch first, with None for free dimensions; None if not declared.
    - `limits`: those of its free dimensions.
    - `given`: values of arguments that are not tensors, by name; the others have the file's defaults.
    - `listed`: whether it takes its image in a list.
    - `sampled`: the shape of the first input that it was traced with; empty if not known."""

    dtype: torch.dtype
    stored: torch.dtype
    shape: tuple[int | None, ...] | None
    limits: dict[int, Limit]
    notes: list[str]
    given: Mapping[str, Any]
    listed: bool
    sampled: tuple[int, ...]

    @property
    def unbounded(self) -> bool:
        """Whether it has loops that may not end."""

    @property
    def counts(self) -> list[int]:
        """Numbers of rows that may be hard-coded in it."""

    @property
    def arguments(self) -> list[str]:
        """The names of its inputs."""

    @property
    def optional(self) -> list[str]:
        """The names of its inputs that have defaults."""

    def weights(self) -> Iterable[Tensor]:
        """Its parameters, buffers and constants."""

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Records the function; returns its outputs as boxes."""

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Runs the file's own function in eval mode."""

    def to(self, dtype: torch.dtype) -> None:
        """Sets the dtype in which `run` computes."""


def opened(path: Path) -> ModelFile:
    """Opens a file on the CPU. Raises `Refused`."""
    form = archive.form(path)
    archive.whole(path)
    archive.fits(path)
    archive.known(path)
    hushed = _Hushed()
    try:
        with hushed, quiet():
            return Script(path) if form == "script" else Program(path)
    except Refused:
        raise
    except Exception as error:  # any error of the reader means that the file cannot be read
        reason = hushed.reason if "the warnings above" in str(error) else str(error)
        raise Refused(archive.unreadable(path, reason)) from error


class _Hushed(logging.Filter):
    """Hides the tracebacks that torch logs for each format of programs that a file is not in. `reason` is the first
    error. Other threads, which read other files, are not affected."""

    reason = ""

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        for log in _LOGS:
            log.addFilter(self)

    def __exit__(self, *_: object) -> None:
        for log in _LOGS:
            log.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops the records of its own thread."""
        if record.thread != self._thread:
            return True
        if record.exc_info and not self.reason:
            self.reason = str(record.exc_info[1])
        return False


@dataclass
class Script:
    """A TorchScript archive."""

    path: Path
    notes: list[str] = field(default_factory=list)
    shape: tuple[int | None, ...] | None = None
    limits: dict[int, Limit] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    sampled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        libraries.imported(self.path)
        self.module = torch.jit.load(self.path, map_location="cpu")
        if getattr(self.module, "training", False):
            self.notes.append("the file was saved in training mode and is set to eval")
        self.module.eval()
        self.listed = [str(argument.type) for argument in self._arguments[:1]] == ["List[Tensor]"]
        self.dtype = self.stored = self._computed = _commonest(self.weights())
        found = sampled(self.path)
        self.sampled = () if found is None else tuple(size or 0 for size in found.sizes)

    @property
    def unbounded(self) -> bool:
        """Whether its code has a `while` loop, or another one of many rounds."""
        loops = [node for node in eval_mode.nodes(self._original.graph) if node.kind() == "prim::Loop"]
        return any((loop.inputsAt(0).toIValue() or 0) > ROUNDS for loop in loops)

    @property
    def counts(self) -> list[int]:
        """One, and the number of rows of its sample, or those that occur as constants in its code."""
        if len(self.sampled) == 4:
            return sorted({1, self.sampled[0]})
        constants = [node for node in eval_mode.nodes(self._original.graph) if node.kind() == "prim::Constant"]
        values = {node.output().toIValue() for node in constants if str(node.output().type()) == "int"}
        return [count for count in FIXED if count == 1 or count in values]

    @property
    def arguments(self) -> list[str]:
        """The names of the arguments of `forward`."""
        return [argument.name for argument in self._arguments]

    @property
    def optional(self) -> list[str]:
        """The names of those that have defaults."""
        return [argument.name for argument in self._arguments if argument.has_default_value()]

    @property
    def _arguments(self) -> list[Any]:
        return list(self.module.forward.schema.arguments[1:])

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Interprets the module."""
        recorder.dated = archive.dated(self.path)
        behind = self._arguments[len(inputs) :]
        values = [self.given.get(argument.name, argument.default_value) for argument in behind]
        return torchscript.record(self.module, [*inputs, *values], recorder)

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Calls the module."""
        return self._original(*inputs, **self.given)

    def to(self, dtype: torch.dtype) -> None:
        """Converts parameters, buffers and constants in the code."""
        self._original.to(dtype)
        if dtype is not self._computed:
            constants.typed(self._original.graph, self._computed, dtype)
            self._computed = dtype

    @cached_property
    def _original(self) -> Any:  # noqa: ANN401
        module = eval_mode.script(torch.jit.load(self.path, map_location="cpu").eval())
        constants.on_cpu(module.graph)
        interpolation.settled(module.graph)
        return module

    def weights(self) -> Iterator[Tensor]:
        """The tensors of its state, then the constants in its code."""
        yield from (tensor for tensor in self.module.state_dict().values() if isinstance(tensor, Tensor))
        for node in eval_mode.nodes(self.module.graph):
            if node.kind() == "prim::Constant" and node.hasAttributes():
                yield from (leaf for leaf in tree_leaves(node.output().toIValue()) if isinstance(leaf, Tensor))


@dataclass
class Program:
    """A `torch.export` program."""

    path: Path
    notes: list[str] = field(default_factory=list)
    listed: bool = False  # its inputs are flat
    sampled: tuple[int, ...] = ()

    @property
    def unbounded(self) -> bool:
        """False: a program's loops are unrolled."""
        return False

    @property
    def counts(self) -> list[int]:
        """Two: a program declares its number of rows, and many exporters treat one as a constant."""
        return [2]

    def __post_init__(self) -> None:
        libraries.imported(self.path)
        file = devices.on_cpu(self.path)
        with _READING:
            import_module("torch._dynamo")  # optimizers, on other threads, import it by this name too
            self.program = torch.export.load(file)
            self.module: Any = self.program.module()
            self._original: Any = eval_mode.program(self.program).module()
        self.dtype = self.stored = _commonest(self.weights())
        self.given: Mapping[str, Any] = {}
        specs = self.program.graph_signature.input_specs
        self._inputs = [spec.arg for spec in specs if spec.kind is InputKind.USER_INPUT]
        names = self.arguments
        first = next((node for node in self.program.graph.nodes if names and node.name == names[0]), None)
        sizes = getattr(first.meta.get("val"), "shape", None) if first is not None else None
        self.shape = None if sizes is None else tuple(s if isinstance(s, int) else None for s in sizes)
        self.limits = {dim: _limit(s) for dim, s in enumerate(sizes or ()) if not isinstance(s, int)}

    @property
    def arguments(self) -> list[str]:
        """The names of the inputs that are tensors. The values of all others are part of the program."""
        return [argument.name for argument in self._inputs if not isinstance(argument, ConstantArgument)]

    @property
    def optional(self) -> list[str]:
        """Empty: an exported program has no defaults."""
        return []

    def weights(self) -> Iterator[Tensor]:
        """The tensors of its state."""
        yield from (tensor for tensor in self.module.state_dict().values() if isinstance(tensor, Tensor))

    def record(self, inputs: list[Box], recorder: Recorder) -> Any:  # noqa: ANN401
        """Runs the program's graph."""
        return exported.record(self.module, self._flat(inputs), recorder)

    def run(self, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Calls the program, with the positional and keyword arguments of its export."""
        args, kwargs = tree_unflatten(self._flat(inputs), self.program.call_spec.in_spec)
        return self._original(*args, **kwargs)

    def _flat(self, inputs: Iterable[Any]) -> list[Any]:
        """All inputs of the program: the tensors, with its constants between them."""
        tensors = iter(inputs)
        return [arg.value if isinstance(arg, ConstantArgument) else next(tensors) for arg in self._inputs]

    def to(self, dtype: torch.dtype) -> None:
        """Converts parameters and buffers, but not dtypes that the program names itself."""
        self._original.to(dtype)


def _limit(size: torch.SymInt) -> Limit:
    """The limits of a free size that the exporter derived, or that were given to it."""
    expression: Any = size.node.expr
    environment: Any = size.node.shape_env
    bounds = environment.bound_sympy(expression)
    most = int(bounds.upper) if bounds.upper.is_Integer else None
    step = expression.as_coeff_Mul()[0]
    return Limit(int(bounds.lower), most, int(step) if step.is_Integer else 1)


def _commonest(weights: Iterable[Tensor]) -> torch.dtype:
    """The floating dtype of most weights, without scalars."""
    counts = Counter[torch.dtype]()
    for tensor in weights:
        if tensor.is_floating_point() and tensor.dim():
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32
