"""Reads a `torch.export` program by running its graph once on a sample, and records what it does."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from lightwell_server.models.lifting.recorder import Recorder
from lightwell_server.models.lifting.views import Box

# Checks of inputs by the exporter. The limits of their sizes are read from the program instead (files.Limit).
_CHECKS = ("_assert_tensor_metadata", "_assert_async", "sym_constrain_range", "sym_constrain_range_for_size")
_GUARDS = "_guards_fn"
"""The module in a program that checks what its exporter assumed about the sizes of the inputs."""


def record(module: fx.GraphModule, inputs: list[Any], recorder: Recorder) -> Any:  # noqa: ANN401
    """Runs a program's module on its flat inputs, constants included; returns its flat outputs."""
    environment: dict[fx.Node, Any] = {}
    layers = _Layers(recorder)
    waiting = list(inputs)
    for node in module.graph.nodes:
        args, kwargs = tree_map(
            lambda item: environment[item] if isinstance(item, fx.Node) else item, (node.args, node.kwargs)
        )
        if node.op == "placeholder":
            environment[node] = waiting.pop(0)
        elif node.op == "get_attr":
            value = operator.attrgetter(node.target)(module)
            environment[node] = recorder.constant(value, node.target) if isinstance(value, Tensor) else value
        elif node.op == "call_function":
            layers.enter(node)
            environment[node] = _call(recorder, node, args, kwargs)
            layers.computed(node, environment[node])
        elif node.op == "call_module" and node.target == _GUARDS:
            _guard(recorder, getattr(module, _GUARDS), args)
        elif node.op == "output":
            layers.leave(set())
            return args[0]
        else:
            recorder.operation = str(node.target)
            raise recorder.refuse("a program that calls a module cannot be lifted; export the model with torch.export")
    raise recorder.refuse("the program has no output; export a model that returns its scores")


def _guard(recorder: Recorder, guards: Callable[..., None], inputs: tuple[Any, ...]) -> None:
    """Adds a guard that the program's own guards pass for these sizes. They are Python code, long for some networks, so
    they run once for each size. Any number of rows up to the sample's may satisfy them."""
    tensors = [value for value in inputs if isinstance(value, Box)]
    most = len(tensors[0].value)

    @lru_cache
    def passes(shapes: tuple[tuple[int, ...], ...]) -> bool:
        return any(_pass(guards, inputs, rows, shapes) for rows in range(most, 0, -1))

    def takes(*values: Tensor) -> bool:
        return passes(tuple(tuple(value.shape[1:]) for value in values))

    recorder.operation = "the program's own guards of its sizes"
    if not recorder.decide(recorder.scalar(takes, *tensors)):
        raise recorder.misfit("they do not pass")


def _pass(guards: Callable[..., None], inputs: tuple[Any, ...], rows: int, shapes: tuple[tuple[int, ...], ...]) -> bool:
    """Whether guards accept inputs of these shapes, given without the batch."""
    tensors = iter([torch.empty((rows, *shape), device="meta") for shape in shapes])
    try:
        guards(*(next(tensors) if isinstance(value, Box) else value for value in inputs))
    except (AssertionError, ArithmeticError):  # sizes may be divided
        return False
    return True


class _Layers:
    """Reports the output of each module to the recorder: the last of its values that is used outside, else the last. An
    exporter numbers the calls of a module that is called again, so that each is a module of its own here."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.active: dict[str, _Call] = {}

    def enter(self, node: fx.Node) -> None:
        """Leaves the modules that do not contain the node, and enters those that do."""
        stack = node.meta.get("nn_module_stack", {})
        self.leave(set(stack))
        for key, (path, kind) in stack.items():
            if key not in self.active:
                self.active[key] = _Call(path.partition("@")[0], _class(kind), len(self.recorder.nodes))
        self.recorder.path = next(reversed(self.active.values())).path if self.active else ""
        self.recorder.operation = str(node.target)
        self.recorder.source = _source(node)

    def computed(self, node: fx.Node, value: Any) -> None:  # noqa: ANN401
        """Notes a value in all active modules. It is copied, because an in-place operation may change the box later."""
        if not isinstance(value, Box):
            return
        value = replace(value)
        for key, call in self.active.items():
            leaves = any(key not in user.meta.get("nn_module_stack", {}) for user in node.users)
            call.last, call.given = value, value if leaves else call.given

    def leave(self, remaining: set[str]) -> None:
        """Ends the calls of all modules except the remaining ones."""
        for key in [key for key in reversed(self.active) if key not in remaining]:
            call = self.active.pop(key)
            self.recorder.called(call.path, call.type, call.given or call.last, call.begun)


@dataclass
class _Call:
    """A module's call in progress: the number of nodes before it, its last value, and its last one that is used
    outside."""

    path: str
    type: str
    begun: int
    last: Box | None = None
    given: Box | None = None


def _block(recorder: Recorder, graded: bool, module: fx.GraphModule, *inputs: Box) -> Any:  # noqa: ANN401
    """A block of the program with gradients switched on or off."""
    before, recorder.graded = recorder.graded, graded
    given = record(module, list(inputs), recorder)
    recorder.graded = before
    return given


def _call(recorder: Recorder, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    target = node.target
    block = getattr(target, "__name__", "")  # torch registers some of these only where a program uses them
    if block == "wrap_with_set_grad_enabled":
        return _block(recorder, *args)
    if block == "wrap_with_autocast" and not args[2]:  # a device, a type, enabled, cached
        return _block(recorder, recorder.graded, *args[4:])
    if isinstance(target, OpOverload):
        name = target._schema.name.split("::")[1]
        if name in _CHECKS:
            return None
        if name == "_assert_scalar":
            return _asserted(recorder, *args)
        if name == "sym_size":
            return recorder.size(*args)
        return recorder.op(target, args, kwargs)
    if target is operator.getitem:
        return args[0][args[1]]
    if callable(target) and getattr(target, "__module__", "") in (
        "_operator",
        "math",
        "torch",
        "torch.fx.experimental.sym_node",
    ):
        return recorder.scalar(target, *args)
    raise recorder.refuse("it cannot be lifted; export the model without it")


def _asserted(recorder: Recorder, condition: Any, told: str) -> None:  # noqa: ANN401
    """Guards an assertion of the program about its sizes."""
    if not recorder.decide(condition):
        raise recorder.misfit(f"it does not hold ({told})")


def _class(kind: Any) -> str:  # noqa: ANN401 - a class or its qualified name
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def _source(node: fx.Node) -> str:
    lines = [line for line in (node.meta.get("stack_trace") or "").splitlines() if line.lstrip().startswith("File")]
    if not lines:
        return ""
    path, _, rest = lines[-1].partition('", line ')
    return f"{path.rpartition('/')[2]}:{rest.split(',')[0]}"
