"""The number of parts of a serialised message: each becomes an object of many times its size when the message is
parsed.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from lightwell_server.errors import InvalidArgument

MOST = 20_000
"""Most fields, list entries and numbers of a request, including nested messages. The bytes of an image are one."""
_VARINT, _I64, _LEN, _GROUP, _END, _I32 = range(6)
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}
_CONTINUED = bytes(range(128, 256))
"""The varint bytes with the continuation bit."""


def check(data: bytes, message: Descriptor, most: int = MOST) -> None:
    """Raises InvalidArgument for a message of more than `most` parts. It does not check whether the message can be
    parsed. Stops after `most` parts."""
    counted = 0
    for count in _counts(memoryview(data), message):
        counted += count
        if counted > most:
            raise InvalidArgument(
                f"the request has more than {most:,} parts (fields, entries of lists and maps, numbers); send fewer,"
                " and images as `encoded` or as the bytes of a `tensor`",
                reason="TOO_MANY_PARTS",
            )


def _counts(data: memoryview, message: Descriptor | None) -> Iterator[int]:
    """The parts of each field on the wire; ends at data that is malformed."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind, field = tag & 7, message.fields_by_number.get(tag >> 3) if message is not None else None
        yield 1
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _LEN:
            size, at = _varint(data, at)
            yield from _within(data[at : at + size], field)
            at += size
        elif kind in (_I64, _I32):
            at += 8 if kind == _I64 else 4
        elif kind not in (_GROUP, _END):
            return


def _within(data: memoryview, field: FieldDescriptor | None) -> Iterator[int]:
    """The parts of a length-delimited field: those of a message, or the numbers of a list."""
    if field is None:
        return
    if field.message_type is not None:
        yield from _counts(data, field.message_type)
    elif field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        size = _FIXED.get(field.type)
        yield len(data) // size if size else len(bytes(data).translate(None, _CONTINUED))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The varint at that position, and its end. The end is that of the data if it is malformed."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            return 0, at
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    return 0, len(data)  # no varint is longer


def described(rpc: str, file: Any) -> Descriptor:  # noqa: ANN401 - a module that protobuf has generated
    """The request message of a call, by its path `/package.Service/Method`."""
    service, _, method = rpc.strip("/").rpartition("/")
    found: Descriptor = file.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[method].input_type
    return found
