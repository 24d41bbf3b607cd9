"""Detects a model's final activation: softmax, sigmoid and their logarithms, also if computed by hand, clamped, scaled,
or concatenated from several heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.nn.functional import logsigmoid

from lightwell_server.contract import Activation

aten = torch.ops.aten

# fmt: off
_SAME = frozenset(("to", "_to_copy", "clone", "alias", "detach", "contiguous", "dropout"))
_SHAPING = frozenset(("flatten", "reshape", "select", "slice", "squeeze", "unsqueeze", "view"))
# Operations whose outputs are bounded, or shares of a sum.
_SQUASHING = frozenset((
    "clamp", "clip", "erf", "exp", "hardsigmoid", "hardtanh", "log_softmax", "sigmoid", "softmax", "tanh",
))
# Operations with weights: what precedes them is not an activation of scores.
_WEIGHING = frozenset((
    "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "convolution", "einsum", "embedding",
    "linear", "matmul", "mm",
))
# fmt: on
_LOGARITHMS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "log": (torch.log, math.e),
    "log2": (torch.log2, 2),
    "log10": (torch.log10, 10),
    "exp": (torch.exp, math.e),
}
"""Logarithms and `exp` with their bases."""
_LOW, _HIGH = 0.01, 0.99
"""The tightest bounds of a clamp of probabilities that is accepted. Such a clamp keeps logarithms finite."""


@dataclass(frozen=True)
class Ending:
    """A final activation: its name, its inputs (concatenated if there are several heads), and the function that
    computes the file's output from them: probabilities times a `factor`, or their `logarithm`."""

    name: Activation
    taken: tuple[fx.Node, ...]
    apply: Callable[[Tensor], Tensor]
    factor: float = 1.0
    logarithm: bool = False

    @property
    def exact(self) -> bool:
        """Whether the file returns probabilities, percentages or logarithms."""
        return self.logarithm or self.factor in (1.0, 100.0)

    def then(self, function: Callable[[Tensor], Tensor], factor: float = 1.0, logarithm: bool | None = None) -> Ending:
        """The same, followed by a function."""
        return replace(
            self,
            apply=lambda scores: function(self.apply(scores)),
            factor=self.factor * factor,
            logarithm=self.logarithm if logarithm is None else logarithm,
        )


def ending(node: fx.Node, root: torch.nn.Module, classes: int) -> Ending | None:
    """The final activation of a value with n rows and `classes` columns, in any shape; None if none is found that can
    be undone exactly."""
    return _Reader(root, classes).read(node)


class _Reader:
    def __init__(self, root: torch.nn.Module, classes: int) -> None:
        self.root, self.classes = root, classes

    def read(self, node: fx.Node) -> Ending | None:
        """Walks back from a value over operations that can be undone."""
        name = _name(node)
        if name in _SAME or (name in _SHAPING and _elements(node) == _elements(node.all_input_nodes[0])):
            return self.read(node.all_input_nodes[0])
        if name == "cat":
            return self._heads(node)
        if name in ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"):
            return self._clamped(node)
        if name in ("mul", "div", "reciprocal"):
            return self._by_hand(node) or self._scaled(node)
        if name in _LOGARITHMS:
            return self._logarithm(node)
        return self._plain(node)

    def _logarithm(self, node: fx.Node) -> Ending | None:
        """A logarithm of probabilities, or probabilities of their natural logarithms."""
        name, inner = _name(node), self.read(node.all_input_nodes[0])
        if inner is None or inner.factor != 1 or inner.logarithm != (name == "exp"):
            return None
        function, base = _LOGARITHMS[name]
        return inner.then(function, 1 / math.log(base), name != "exp")

    def _plain(self, node: fx.Node) -> Ending | None:
        name = _name(node).strip("_")
        taken = node.all_input_nodes[:1]
        if name in ("softmax", "log_softmax") and self._of_classes(taken[0], _args(node)[1]):
            logarithm = name == "log_softmax"
            function = _log_softmax if logarithm else _softmax
            return Ending("softmax", (*taken,), function, logarithm=logarithm)
        if name in ("sigmoid", "special_expit", "log_sigmoid"):
            logarithm = name == "log_sigmoid"
            return Ending("sigmoid", (*taken,), logsigmoid if logarithm else torch.sigmoid, logarithm=logarithm)
        return None

    def _of_classes(self, value: fx.Node, dim: Any) -> bool:  # noqa: ANN401
        """Whether a dimension holds the classes, where the first one is the batch and all others are of size one."""
        shape = value.meta["shape"]
        place: int = dim % len(shape)
        return bool(place > 0 and shape[place] == self.classes and math.prod(shape[1:]) == self.classes)

    def _heads(self, node: fx.Node) -> Ending | None:
        """Sigmoids of several heads, concatenated. Several softmaxes do not make one over all classes."""
        parts, dim = list(node.all_input_nodes), _args(node)[1] if len(_args(node)) > 1 else 0
        shape = node.meta["shape"]
        if dim % len(shape) != 1 or any(len(part.meta["shape"]) != 2 for part in parts):
            return None
        found = [_Reader(self.root, part.meta["shape"][1]).read(part) for part in parts]
        heads = [head for head in found if head is not None and head.name == "sigmoid" and head.exact]
        if len(heads) < len(parts):
            return None
        widths = [part.meta["shape"][1] for part in parts]

        def apply(scores: Tensor) -> Tensor:
            each = scores.split(widths, 1)
            return torch.cat([head.apply(part) for head, part in zip(heads, each, strict=True)], 1)

        return Ending("sigmoid", tuple(node for head in heads for node in head.taken), apply)

    def _clamped(self, node: fx.Node) -> Ending | None:
        bounds = [self._number(arg) for arg in _args(node)[1:3]]
        bounds = [None, *bounds] if _name(node) == "clamp_max" else bounds
        low, high = [*bounds, None, None][:2]
        inner = self.read(node.all_input_nodes[0])
        if inner is None:
            return None
        least, most = (math.log(_LOW), math.log(_HIGH)) if inner.logarithm else (_LOW, _HIGH)
        least, most = least * inner.factor, most * inner.factor
        if (low is not None and low > least) or (high is not None and high < most):
            return None
        return inner.then(lambda values: values.clamp(low, high))

    def _scaled(self, node: fx.Node) -> Ending | None:
        """A product with a positive constant, such as 100 for percentages."""
        if len(_args(node)) < 2:
            return None
        numbers = [self._number(arg) for arg in _args(node)[:2]]
        value, factor = (_args(node)[0], numbers[1]) if numbers[0] is None else (_args(node)[1], numbers[0])
        divides = _name(node) == "div"
        if not isinstance(value, fx.Node) or factor is None or not factor > 0 or (divides and numbers[0] is not None):
            return None
        inner = self.read(value)
        share = 1 / factor if divides else factor
        return inner.then(lambda values: values * share, share) if inner is not None else None

    def _by_hand(self, node: fx.Node) -> Ending | None:
        """1 / (1 + exp(-x)), exp(x) / (1 + exp(x)), and exp(x) / sum(exp(x))."""
        over, under = self._quotient(node)
        if under is None:
            return None
        if over == 1.0:
            power = self._more_than_one(under)
            taken = self._negative(_args(power)[0]) if power is not None else None
            return Ending("sigmoid", (taken,), torch.sigmoid) if taken is not None else None
        if not isinstance(over, fx.Node) or _name(over) != "exp":
            return None
        exponent = over.all_input_nodes[0]
        if self._more_than_one(under) is over:
            return Ending("sigmoid", (exponent,), torch.sigmoid)
        sums: bool = (
            _name(under) == "sum" and _args(under)[0] is over and len(_args(under)) > 2 and bool(_args(under)[2])
        )
        dims: Any = _args(under)[1:2][0] if sums else ()
        if not sums or len(dims) != 1 or not self._of_classes(over, dims[0]):
            return None
        return Ending("softmax", (self._unshifted(exponent),), _softmax)

    def _quotient(self, node: fx.Node) -> tuple[Any, fx.Node | None]:
        """Numerator, a number or a node, and denominator of a quotient."""
        name, args = _name(node), _args(node)
        if name == "reciprocal":
            return 1.0, node.all_input_nodes[0]
        if name == "mul" and len(args) > 1:  # how a trace divides a number by a tensor
            factor = self._number(args[1])
            inner = args[0]
            if isinstance(inner, fx.Node) and _name(inner) == "reciprocal" and factor is not None:
                return factor, inner.all_input_nodes[0]
        if name == "div" and len(args) == 2 and isinstance(args[1], fx.Node) and self._number(args[1]) is None:
            over = self._number(args[0])
            return (args[0] if over is None else over), args[1]
        return None, None

    def _more_than_one(self, node: fx.Node) -> fx.Node | None:
        """The node exp(x) if a value is 1 + exp(x)."""
        if _name(node) != "add" or node.kwargs.get("alpha", 1) != 1:
            return None
        for value, one in (_args(node)[:2], _args(node)[1::-1]):
            if self._number(one) == 1 and isinstance(value, fx.Node) and _name(value) == "exp":
                return value
        return None

    def _negative(self, node: Any) -> fx.Node | None:  # noqa: ANN401
        """The node x if a value is -x."""
        if _name(node) == "neg":
            taken: fx.Node = node.all_input_nodes[0]
            return taken
        if _name(node) == "mul":
            for value, minus in (_args(node)[:2], _args(node)[1::-1]):
                if self._number(minus) == -1 and isinstance(value, fx.Node):
                    return value
        return None

    def _unshifted(self, node: fx.Node) -> fx.Node:
        """The scores before their maximum was subtracted, which does not change a softmax."""
        if _name(node) != "sub" or node.kwargs.get("alpha", 1) != 1:
            return node
        value, shift = _args(node)[:2]
        if isinstance(value, fx.Node) and isinstance(shift, fx.Node):
            one = [*value.meta["shape"][:1], *[1] * (len(value.meta["shape"]) - 1)]
            return value if list(shift.meta.get("shape", ())) == one else node
        return node

    def _number(self, arg: Any) -> float | None:  # noqa: ANN401
        """The value of a constant: a number, or a tensor of one element."""
        if isinstance(arg, int | float):
            return float(arg)
        value = getattr(self.root, str(arg.target)) if isinstance(arg, fx.Node) and arg.op == "get_attr" else None
        return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(1)


def _log_softmax(scores: Tensor) -> Tensor:
    return scores.log_softmax(1)


def squashed(node: fx.Node) -> bool:
    """Whether an operation after the last layer with weights bounds a value."""
    return any(_name(passed).strip("_") in _SQUASHING for passed in _unweighed(node))


def _unweighed(node: fx.Node) -> Iterator[fx.Node]:
    """The operations that lead to a value, back to the last ones with weights."""
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        passed = waiting.pop()
        if passed in seen or passed.op != "call_function" or _name(passed).strip("_") in _WEIGHING:
            continue
        seen.add(passed)
        yield passed
        waiting.extend(passed.all_input_nodes)


def are_shares(rows: Tensor, bounded: bool) -> bool:
    """Whether rows [n, classes], floating, of contrasting images are probabilities: none negative, and each with a sum
    of one; or, if they are `bounded`, with equal sums, or none above one."""
    values = rows.double()
    if values.dim() != 2 or values.shape[1] < 2 or not bool((values >= -1e-6).all()):
        return False
    sums = values.sum(1)
    if bool(((sums - 1).abs() < 1e-2).all()):
        return True
    return bounded and bool((values <= 1 + 1e-6).all() or (sums - sums[0]).abs().max() < 1e-4 * sums[0])


def _args(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _name(node: Any) -> str:  # noqa: ANN401
    if not isinstance(node, fx.Node) or not isinstance(node.target, OpOverload):
        return ""
    return node.target._schema.name.partition("::")[2]


def _elements(node: fx.Node) -> int:
    return math.prod(node.meta.get("shape", (0,)))
