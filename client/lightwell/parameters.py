"""Parameters of methods as words of a command line, read by the fields' types: a new method needs nothing here.

layer=layer4  relu=false  norm=l2  color=1,0.5,0  styles=painting.jpg:2,leaf.png  style_layers=layer1:1,layer2:0.5
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lightwell import images
from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

_COMMANDS: dict[str, type[Message]] = {
    "explain": explain_pb2.ExplainRequest,
    "synthesize": synthesize_pb2.SynthesizeRequest,
}
_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_REAL = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Usage(ValueError):
    """A mistake in a command line."""


def method(command: str, name: str, parameters: Iterable[str] = ()) -> Message:
    """The message of a method of `explain` or `synthesize`, with parameters such as `layer=layer4`. Raises `Usage`."""
    known = {command: method_names(command) for command in _COMMANDS}
    if name not in known[command]:
        for other, names in known.items():
            if name in names:
                raise Usage(f"{name} is asked with `lightwell {other}`")
        raise Usage(f"there is no method {name!r}; {nearest(name, known[command])}")
    descriptor = cast(Descriptor, _COMMANDS[command].DESCRIPTOR.fields_by_name[name].message_type)
    message = GetMessageClass(descriptor)()
    for word in parameters:
        _parameter(message, name, word)
    return message


def assign(message: Message, method: str, name: str, value: Any) -> None:  # noqa: ANN401 - of the field's type
    """Sets a parameter of a method from its value or text. Raises `Usage` for invalid text."""
    field = cast(FieldDescriptor, message.DESCRIPTOR.fields_by_name[name])
    if isinstance(value, str):
        _parameter(message, method, f"{name}={value}")
    elif field.is_repeated:
        getattr(message, name).extend(value if isinstance(value, list | tuple) else [value])
    elif field.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def described(message: Message) -> dict[str, str]:
    """The parameters that are set, as text, without repeated ones and messages."""
    return {
        field.name: _word(field, value)
        for field, value in message.ListFields()
        if field.message_type is None and not field.is_repeated
    }


def command_of(name: str) -> str:
    """The command of a method: explain or synthesize. Raises `Usage` if there is no such method."""
    for command in _COMMANDS:
        if name in method_names(command):
            return command
    every = [known for command in _COMMANDS for known in method_names(command)]
    raise Usage(f"there is no method {name!r}; {nearest(name, every)}")


def method_names(command: str) -> list[str]:
    """The methods of `explain` or `synthesize`."""
    return [field.name for field in _COMMANDS[command].DESCRIPTOR.oneofs_by_name["method"].fields]


def target(text: str | None) -> Any:  # noqa: ANN401 - what `to_target` takes
    """A class by index or label, or `channel:LAYER:3`, `neuron:LAYER:3:ROW:COLUMN`, `contrast:3:5`,
    `element:OUTPUT:3,0,7`. An empty layer or output, as in `channel::3`, is the main output. Raises `Usage`."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    kind, colon, rest = text.partition(":")
    field = types.Target.DESCRIPTOR.fields_by_name.get(kind)
    if not colon or field is None or field.message_type is None:
        return text
    try:
        return _message(field.message_type, rest, ":")
    except ValueError as error:
        raise Usage(f"--target {text}: {error}") from error


def enum_words(enum: EnumDescriptor) -> dict[str, int]:
    """An enum's values by name in lower case: READOUT_LOG_PROBABILITY is log_probability."""
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


def nearest(name: str, names: list[str]) -> str:
    """A clause with the names nearest to an unknown one."""
    close = get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)
    return f"the nearest are {', '.join(close)}" if close else "there are none"


def _word(field: FieldDescriptor, value: Any) -> str:  # noqa: ANN401 - of the field's type
    if field.enum_type is not None:
        return next(word for word, number in enum_words(field.enum_type).items() if number == value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parameter(message: Message, name: str, word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals:
        raise Usage(f"-p {word}: write NAME=VALUE")
    fields = message.DESCRIPTOR.fields_by_name
    if key not in fields:
        raise Usage(f"{name} has no parameter {key!r}; {nearest(key, list(fields))}")
    try:
        _assign(message, cast(FieldDescriptor, fields[key]), text)
    except ValueError as error:
        raise Usage(f"{name}.{key}: {error}") from error


def _assign(message: Message, field: FieldDescriptor, text: str) -> None:
    """Sets a field from text, or appends to it if it is repeated."""
    if field.is_repeated:
        # A file may have commas in its name.
        items = [text] if Path(text).is_file() else text.split(",")
        getattr(message, field.name).extend(_value(field, item, ":") for item in items)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(_value(field, text, ","))
    else:
        setattr(message, field.name, _value(field, text))


def _value(field: FieldDescriptor, text: str, separator: str = ",") -> Any:  # noqa: ANN401 - of the field's type
    if field.message_type is not None:
        return _message(field.message_type, text, separator)
    if field.enum_type is not None:
        return _chosen(enum_words(field.enum_type), text)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _chosen(_TRUTHS, text.lower())
    if field.cpp_type in _WHOLE:
        return _number(int, "whole number", text)
    if field.cpp_type in _REAL:
        return _number(float, "number", text)
    return text


def _message(descriptor: Descriptor, text: str, separator: str) -> Message:
    """A message from the values of its fields in order, where trailing optional ones may be omitted; an image from its
    path."""
    if descriptor is types.Image.DESCRIPTOR:
        return images.to_message(text)
    message, fields = GetMessageClass(descriptor)(), descriptor.fields
    words = [text] if Path(text).is_file() else text.rsplit(separator, len(fields) - 1)
    if len(words) < sum(not field.has_presence for field in fields):
        raise ValueError(f"{text!r} is too short; write {separator.join(field.name for field in fields)}")
    for field, word in zip(fields, words, strict=False):
        _assign(message, field, word)
    return message


def _chosen(words: dict[str, Any], text: str) -> Any:  # noqa: ANN401 - of the dictionary's type
    if text not in words:
        raise ValueError(f"{text!r} is none of {', '.join(words)}")
    return words[text]


def _number(kind: type[int] | type[float], called: str, text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is no {called}") from None
