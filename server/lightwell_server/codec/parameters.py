"""Conversion of parameters between protobuf and Python, for every message: set fields are converted by name, unset ones
are absent.

Enums become the lower-case rest of their names, images the result of `picture`, other messages dicts. A colour's three
parts are always set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from torch import Tensor

from lightwell.v1 import types_pb2 as types
from lightwell_server.contract import Color
from lightwell_server.errors import InvalidArgument

Decode = Callable[[types.Image, str], Any]


def read_parameters(message: Message, path: str, picture: Decode) -> dict[str, Any]:
    """The set fields of a message. `path` is its path in the request, for errors."""
    return {
        field.name: _value(field, value, f"{path}.{field.name}", picture)
        for field, value in message.ListFields()
        if not (field.enum_type and value == 0)
    }


def _value(field: FieldDescriptor, value: Any, path: str, picture: Decode) -> Any:  # noqa: ANN401
    if field.is_repeated:
        return tuple(_single(field, item, f"{path}[{i}]", picture) for i, item in enumerate(value))
    return _single(field, value, path, picture)


def _single(field: FieldDescriptor, value: Any, path: str, picture: Decode) -> Any:  # noqa: ANN401
    if field.enum_type is not None:
        if value not in field.enum_type.values_by_number:
            raise InvalidArgument.at(path, f"{value} is no {field.enum_type.name}")
        return _word(field.enum_type, value)
    if isinstance(value, types.Image):
        return picture(value, path)
    if isinstance(value, types.Color):
        return {"red": value.red, "green": value.green, "blue": value.blue}
    return read_parameters(value, path, picture) if isinstance(value, Message) else value


def fill_parameters(message: Message, values: Mapping[str, Any]) -> None:
    """Sets a message's fields from parameters, except images: the inverse of `read_parameters`."""
    for name, value in values.items():
        field: Any = message.DESCRIPTOR.fields_by_name[name]
        if value is None or isinstance(value, Tensor):
            continue
        if field.is_repeated and field.message_type is not None:
            message.ClearField(name)
            for item in value:
                fill_parameters(getattr(message, name).add(), _mapping(item))
        elif field.message_type is not None:
            fill_parameters(getattr(message, name), _mapping(value))
        elif field.enum_type is not None:
            setattr(message, name, _number(field.enum_type, value))
        else:
            setattr(message, name, value)


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    if isinstance(value, Color):
        return value._asdict()
    return {name: getattr(value, name) for name in value.__dataclass_fields__} if is_dataclass(value) else value


def words(enum: EnumDescriptor) -> list[str]:
    """The words of an enum, without its prefix and its unset value."""
    return [_word(enum, value.number) for value in enum.values if value.number]


def _prefix(enum: EnumDescriptor) -> str:
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")


def _word(enum: EnumDescriptor, number: int) -> str:
    return enum.values_by_number[number].name.removeprefix(_prefix(enum)).lower()


def _number(enum: EnumDescriptor, word: str) -> int:
    return enum.values_by_name[_prefix(enum) + word.upper()].number
