"""Reads a TorchScript module by interpreting its graph once on a sample, and records what it does.

Calls of modules are interpreted one by one, so that each has a known path. Calls of plain functions are inlined.
`prim::If` and `prim::Loop` follow the sample; the recorder refuses branches that depend on data and guards those that
depend on sizes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_any, tree_map

from lightwell_server.models.lifting import interpolation, scalars
from lightwell_server.models.lifting.objects import Member, Module, Object, Uninitialised, is_instance
from lightwell_server.models.lifting.recorder import Recorder, aten
from lightwell_server.models.lifting.views import Box

Environment = dict[str, Any]


def record(module: torch.jit.ScriptModule, inputs: list[Any], recorder: Recorder) -> Any:  # noqa: ANN401
    """Interprets `module(*inputs)`; returns its output, boxes within tuples, lists and dicts."""
    return _Interpreter(recorder).method(Module(module._c, ""), "forward", inputs)


class _Interpreter:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.outer: list[bool] = []

    def method(self, module: Module, name: str, arguments: list[Any]) -> Any:  # noqa: ANN401
        """Calls a method of a module; calls of `forward` are noted as layers."""
        graph = module.script._get_method(name).graph
        caller, self.recorder.path = self.recorder.path, module.path
        begun = len(self.recorder.nodes)
        (output,) = self.run(graph, dict(zip(_names(graph.inputs()), [module, *arguments], strict=True)))
        self.recorder.path = caller
        if name.startswith("forward"):
            self.recorder.called(module.path, module.type, output, begun)
        return output

    def run(self, block: Any, environment: Environment) -> list[Any]:  # noqa: ANN401 - a graph or a block
        """Runs the nodes of a block in its environment; returns its outputs."""
        for node in block.nodes():
            self.recorder.tick()
            self.recorder.operation = node.kind()
            self.recorder.source = _source(node) or self.recorder.source
            kind = node.kind()
            handler = _PRIMS.get(kind)
            if handler is not None:
                results = handler(self, node, environment)
            elif kind.startswith("prim::") and kind.removeprefix("prim::") not in _KNOWN:
                raise self.recorder.refuse("it cannot be lifted; export the model without it")
            else:
                result = self.operation(node, self.values(node, environment))
                results = list(result) if node.outputsSize() > 1 else [result]
            environment.update(zip(_names(node.outputs()), results, strict=False))
        return [environment[name] for name in _names(block.outputs())]

    def values(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        return [environment[name] for name in _names(node.inputs())]

    def operation(self, node: Any, args: list[Any]) -> Any:  # noqa: ANN401
        """Runs an operation: on sizes and containers in Python, on tensors recorded."""
        namespace, name = node.kind().split("::")
        if name in scalars.TENSOR_FACTS:
            first = scalars.tensor(self.recorder, args[0]) if _takes_tensor(node) else args[0]
            if isinstance(first, Box) and isinstance(first.value, Tensor):
                return scalars.TENSOR_FACTS[name](self.recorder, first, *args[1:])
        if name in scalars.NUMBERS:
            # A trace computes with a size as a float32 tensor.
            single = _takes_tensor(node) and not _is_tensor(args[0])
            function = scalars.SINGLE.get(name) if single else None
            return self.recorder.scalar(function or scalars.NUMBERS[name], self.recorder.number(args[0]))
        if name in scalars.CONTAINERS and isinstance(args[0], list | dict | str | tuple):
            return self.contained(name, args)
        if name == interpolation.NAME:
            return interpolation.interpolated(self.recorder, *args)
        if name in scalars.LITERALS:
            return scalars.literal(self.recorder, *args[:2])
        # A trace computes with sizes as tensors, in place as well; here the new number replaces the old one.
        arithmetic = name if name in scalars.SCALARS else name.removesuffix("_")
        if arithmetic in scalars.SCALARS and not tree_any(_is_tensor, args):
            function = scalars.SINGLE.get(arithmetic) if _gives_tensor(node) else None
            return self.recorder.scalar(function or scalars.SCALARS[arithmetic], *_numbers(args))
        schema = torch._C.parse_schema(node.schema())
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is None:
            raise self.recorder.refuse("it is no operation known here; install the library that brings it")
        overload = getattr(packet, schema.overload_name or "default")
        args = [self.fitting(argument, arg) for argument, arg in zip(schema.arguments, args, strict=False)]
        positional = [arg for arg in schema.arguments if not arg.kwarg_only]
        named = [arg.name for arg in schema.arguments if arg.kwarg_only]
        return self.recorder.op(
            overload, tuple(args[: len(positional)]), dict(zip(named, args[len(positional) :], strict=True))
        )

    def fitting(self, argument: Any, value: Any) -> Any:  # noqa: ANN401
        """The value as an argument of an operation: a dtype for TorchScript's index, and a tensor for a number where
        one is needed."""
        kind = str(argument.type)
        if argument.name == "dtype" and isinstance(value, int):
            return scalars.DTYPES[value]
        if kind in ("Tensor", "Optional[Tensor]"):
            return scalars.tensor(self.recorder, value)
        if kind in ("List[Tensor]", "List[Optional[Tensor]]") and isinstance(value, list):
            return [scalars.tensor(self.recorder, item) for item in value]
        return value

    def contained(self, name: str, args: list[Any]) -> Any:  # noqa: ANN401
        """Runs an operation on a list, dict or string in Python. Sizes that it compares are guarded."""
        if name in scalars.SEARCHES and isinstance(args[0], list):
            args[0][:] = map(self.recorder.settled, args[0])
        if name in scalars.KEYED and len(args) > 1:
            args = [args[0], self.recorder.settled(args[1]), *args[2:]]
        try:
            return scalars.CONTAINERS[name](*args)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise self.recorder.refuse(
                f"aten::{name} of a {type(args[0]).__name__} fails ({error!r}); export the model without it"
            ) from error

    def constant(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        value = node.output().toIValue() if node.hasAttributes() and not node.hasAttribute("name") else None
        return [self.kept(value)]

    def kept(self, value: Any, name: str = "") -> Any:  # noqa: ANN401
        """A constant of the file. Its tensors become boxes, its devices the CPU, and members of its enumerations
        `Member`s, which can be compared."""

        def keep(leaf: Any) -> Any:  # noqa: ANN401
            if isinstance(leaf, Tensor):
                return self.recorder.constant(leaf, name)
            if isinstance(leaf, torch.device):
                return torch.device("cpu")
            return Member(type(leaf).__name__, leaf.name, leaf.value) if isinstance(leaf, Enum) else leaf

        return tree_map(keep, value)

    def chunks(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        (whole,) = self.values(node, environment)
        return list(self.recorder.op(aten.chunk.default, (whole, node.i("chunks"), node.i("dim")), {}))

    def attribute(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        (owner,) = self.values(node, environment)
        name = node.s("name")
        if isinstance(owner, Object):
            return [owner.attributes[name]]
        value = owner.script.getattr(name)
        if isinstance(value, torch._C.ScriptModule):
            return [Module(value, owner.child(name))]
        return [self.kept(value, owner.child(name))]

    def call_method(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        owner, *arguments = self.values(node, environment)
        if isinstance(owner, Object):
            return self.inlined(_inlined(node, list(node.inputs())), list(node.inputs()), environment)
        return [self.method(owner, node.s("name"), arguments)]

    def call_function(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        function, *arguments = node.inputs()
        return self.inlined(_inlined(node, arguments, function), arguments, environment)

    def inlined(self, graph: Any, arguments: list[Any], environment: Environment) -> list[Any]:  # noqa: ANN401
        """Runs a graph whose inputs are these values of the caller, without duplicates."""
        given = {value.debugName(): environment[value.debugName()] for value in arguments}
        return self.run(graph, dict(zip(_names(graph.inputs()), given.values(), strict=True)))

    def forked(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        """Runs a forked graph at once."""
        graph = node.g("Subgraph")
        return self.run(graph, dict(zip(_names(graph.inputs()), self.values(node, environment), strict=True)))

    def created(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        return [Object(str(node.output().type().qualified_name()))]

    def listed(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        """The numbers of a tensor [length] as a list."""
        box = self.values(node, environment)[0]
        if box.value.dim() != 1:
            raise self.recorder.refuse("a list of a tensor of several dimensions cannot be lifted; make one of one")
        count = self.recorder.settled(self.recorder.size(box, 0))
        parts = [self.recorder.op(aten.select.int, (box, 0, i), {}) for i in range(count)]
        return [[self.recorder.number(part) for part in parts]]

    def checked(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        (value,) = self.values(node, environment)
        return [any(is_instance(value, kind) for kind in node.tys("types"))]

    def entered(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        """Begins or ends a `with` block."""
        (manager,) = self.values(node, environment)
        if manager.kind.endswith(_AUTOCAST) and not manager.attributes.get("_enabled", True):
            return [None]
        if manager.kind not in _GRADIENTS:
            raise self.recorder.refuse(f"`with {manager.kind}` cannot be lifted; export the model without it")
        if node.kind() == "prim::Enter":
            self.outer.append(self.recorder.graded)
            self.recorder.graded = _GRADIENTS[manager.kind]
        else:
            self.recorder.graded = self.outer.pop()
        return [None]

    def branch(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        (condition,) = self.values(node, environment)
        then, otherwise = node.blocks()
        return self.run(then if self.recorder.decide(condition) else otherwise, environment)

    def loop(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        limit, condition, *carried = self.values(node, environment)
        (body,) = node.blocks()
        index = 0
        while self.recorder.decide(self.recorder.scalar(operator.gt, limit, index)) and self.recorder.decide(condition):
            environment.update(zip(_names(body.inputs()), [index, *carried], strict=True))
            condition, *carried = self.run(body, environment)
            index += 1
            self.recorder.turned(index, limit)
        return carried

    def raised(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        raise self.recorder.misfit(f"the model raises {self.values(node, environment)[0]!r}")

    def changed(self, node: Any, environment: Environment) -> list[Any]:  # noqa: ANN401
        owner, value = self.values(node, environment)
        if isinstance(owner, Object):
            owner.attributes[node.s("name")] = value
            return []
        raise self.recorder.refuse("the model changes its own attributes while it runs; export it without state")


_GRADIENTS = {
    "__torch__.torch.autograd.grad_mode.no_grad": False,
    "__torch__.torch.autograd.grad_mode.enable_grad": True,
}
"""Context managers that disable or enable gradients."""
_AUTOCAST = "autocast_mode.autocast"
"""The context manager of automatic mixed precision."""


def _inlined(call: Any, arguments: list[Any], function: Any = None) -> Any:  # noqa: ANN401
    """A new graph for one call of a function, or of an object's method, with its body inlined."""
    graph: Any = torch._C.Graph()
    inner = {}
    if function is not None:
        constant = graph.appendNode(graph.createClone(function.node(), lambda value: value))
        inner[function.debugName()] = constant.output()
    for value in arguments:
        if value.debugName() not in inner:
            inner[value.debugName()] = graph.addInput()
            inner[value.debugName()].setType(value.type())
    clone = graph.appendNode(graph.createClone(call, lambda value: inner[value.debugName()]))
    for output in clone.outputs():
        graph.registerOutput(output)
    torch._C._jit_pass_inline(graph)
    return graph


def _names(values: Any) -> list[str]:  # noqa: ANN401
    return [value.debugName() for value in values]


_SCRIPTED = re.compile(r'File "([^"]+)", line (\d+)')
_TRACED = re.compile(r"^(\S+)\((\d+)\): ", re.MULTILINE)


def _source(node: Any) -> str:  # noqa: ANN401
    """A node's source line, such as `resnet.py:92`: for nested calls the innermost one outside torch, for a script the
    original line and not its copy in the archive."""
    text = str(node.sourceRange())
    places = _TRACED.findall(text) or _SCRIPTED.findall(text.partition("Serialized")[0]) or _SCRIPTED.findall(text)
    own = [place for place in places if "/torch/" not in place[0]] or places
    return f"{own[0][0].rpartition('/')[2]}:{own[0][1]}" if own else ""


def _takes_tensor(node: Any) -> bool:  # noqa: ANN401
    return bool(next(node.inputs()).type().kind() == "TensorType")


def _gives_tensor(node: Any) -> bool:  # noqa: ANN401
    return bool(node.outputsSize() == 1 and node.output().type().kind() == "TensorType")


def _is_tensor(value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, Box) and isinstance(value.value, Tensor) and (value.node is not None or value.value.dim() > 0)
    )


def _numbers(args: list[Any]) -> list[Any]:
    """Tensors of one element as numbers."""
    return [arg.value.item() if isinstance(arg, Box) and isinstance(arg.value, Tensor) else arg for arg in args]


_KNOWN = scalars.TENSOR_FACTS.keys() | scalars.NUMBERS.keys() | scalars.SCALARS.keys()

_Handler = Callable[[_Interpreter, Any, Environment], list[Any]]

_PRIMS: dict[str, _Handler] = {
    "prim::Constant": _Interpreter.constant,
    "prim::GetAttr": _Interpreter.attribute,
    "prim::SetAttr": _Interpreter.changed,
    "prim::CreateObject": _Interpreter.created,
    "prim::Enter": _Interpreter.entered,
    "prim::Exit": _Interpreter.entered,
    "prim::fork": _Interpreter.forked,
    "aten::wait": lambda run, node, env: run.values(node, env),
    "prim::tolist": _Interpreter.listed,
    "prim::isinstance": _Interpreter.checked,
    "prim::EnumName": lambda run, node, env: [run.values(node, env)[0].name],
    "prim::EnumValue": lambda run, node, env: [run.values(node, env)[0].value],
    "prim::CallMethod": _Interpreter.call_method,
    "prim::CallFunction": _Interpreter.call_function,
    "prim::If": _Interpreter.branch,
    "prim::Loop": _Interpreter.loop,
    "prim::RaiseException": _Interpreter.raised,
    "prim::ListConstruct": lambda run, node, env: [run.values(node, env)],
    "prim::TupleConstruct": lambda run, node, env: [tuple(run.values(node, env))],
    "prim::DictConstruct": lambda run, node, env: [dict(_pairs(run.values(node, env)))],
    "prim::ListUnpack": lambda run, node, env: list(run.values(node, env)[0]),
    "prim::TupleUnpack": lambda run, node, env: list(run.values(node, env)[0]),
    "prim::TupleIndex": lambda run, node, env: [operator.getitem(*run.values(node, env))],
    "prim::Uninitialized": lambda run, node, env: [Uninitialised()],
    "prim::unchecked_cast": lambda run, node, env: run.values(node, env),
    "prim::type": lambda run, node, env: [run.values(node, env)[0].type],
    "prim::data": lambda run, node, env: [run.recorder.op(aten.detach.default, (run.values(node, env)[0],), {})],
    "prim::ConstantChunk": _Interpreter.chunks,
}


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))
