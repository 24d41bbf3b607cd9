"""Values of a TorchScript file other than tensors, numbers and containers: modules, objects of its own classes, members
of enumerations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightwell_server.models.lifting.views import Box


@dataclass(frozen=True)
class Module:
    """A module of the file and its path from the root."""

    script: Any
    path: str

    @property
    def type(self) -> str:
        """The class's name."""
        return str(self.script._type().name())

    def child(self, name: str) -> str:
        """The path of an attribute."""
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True)
class Member:
    """A member of an enumeration. Each time that a file is read, torch makes a new class for its enumeration."""

    kind: str
    name: str
    value: Any


@dataclass
class Object:
    """An instance of a script's class: the full name of the class, and the attributes."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Uninitialised:
    """The value of a branch that was not taken."""


_PLAIN = {"BoolType": bool, "IntType": int, "FloatType": float, "StringType": str, "NoneType": type(None)}


def is_instance(value: Any, kind: Any) -> bool:  # noqa: ANN401 - a type of TorchScript's
    """Whether a value is of a TorchScript type. Elements of containers are checked too."""
    name = kind.kind()
    if name == "OptionalType":
        return value is None or is_instance(value, kind.getElementType())
    if name == "ListType":
        return isinstance(value, list) and all(is_instance(item, kind.getElementType()) for item in value)
    if name == "DictType":
        items = value.items() if isinstance(value, dict) else [(None, None)]
        return all(is_instance(k, kind.getKeyType()) and is_instance(v, kind.getValueType()) for k, v in items)
    if name == "TupleType":
        parts = kind.elements()
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(is_instance, value, parts))
    if name == "ClassType":
        return isinstance(value, Object) and value.kind == kind.qualified_name()
    value = value.value if isinstance(value, Box) else value
    return isinstance(value, Tensor) if name == "TensorType" else type(value) is _PLAIN.get(name)
