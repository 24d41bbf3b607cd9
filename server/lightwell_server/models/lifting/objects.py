"""What a TorchScript file has beside tensors, numbers and containers: modules, objects of its own classes, members of
enumerations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
        """The path of something within."""
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True)
class Member:
    """One of an enumeration. Reading a file makes a class of its own of the enumeration each time."""

    kind: str
    name: str
    value: Any


@dataclass
class Object:
    """What a script made of one of its classes: the class's full name and its attributes."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Uninitialised:
    """The value that a branch not taken would have given."""
