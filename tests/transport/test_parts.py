"""Parts of a message are counted before it is read."""

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from lightwell import StyleTransfer
from lightwell.v1 import estimate_pb2, explain_pb2, explainer_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types
from lightwell_server.errors import InvalidArgument
from lightwell_server.transport import parts


def counted(message):
    """The least bound that lets a message pass."""
    data, low, high = message.SerializeToString(), 0, 100_000
    while low < high:
        middle = (low + high) // 2
        try:
            parts.check(data, message.DESCRIPTOR, middle)
        except InvalidArgument:
            low = middle + 1
        else:
            high = middle
    return low


def expected(message):
    """Fields that are set, over all messages within; numbers of packed lists count, too, each beside the list."""
    total = 0
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.message_type is not None:
            total += sum(1 + expected(part) for part in values)
        elif field.is_repeated and field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            total += 1 + len(values)
        else:
            total += len(values)
    return total


numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)
messages = st.one_of(
    st.builds(
        explain_pb2.ExplainRequest,
        image=st.builds(types.Image, tensor=st.builds(types.Tensor, shape=numbers, data=st.binary(max_size=300))),
        model=st.text(max_size=20),
        seed=st.integers(0, 2**31),
    ),
    st.builds(
        synthesize_pb2.SynthesizeRequest,
        style_transfer=st.builds(
            StyleTransfer,
            steps=st.integers(0, 10),
            style_layers=st.lists(st.fixed_dictionaries({"layer": st.text(max_size=5)}), max_size=10),
        ),
    ),
)


@given(messages)
def test_what_is_counted_are_the_parts(message):
    assert counted(message) == expected(message)


@given(st.binary(max_size=200))
def test_whatever_is_no_message_is_counted_to_its_end(data):
    parts.check(data, explain_pb2.ExplainRequest.DESCRIPTOR, 1000)


def test_the_bytes_of_an_image_are_one_part():
    request = explain_pb2.ExplainRequest(image=types.Image(encoded=bytes(10**7)))
    assert counted(request) == 2


def test_numbers_that_are_cut_off_or_too_long_end_the_count():
    for data in (b"\x80", b"\xff" * 10**6, b"\x0a\xff\xff\xff\xff\x0f", b"\x08" + b"\x80" * 10**6):
        parts.check(data, explain_pb2.ExplainRequest.DESCRIPTOR, 3)


def test_too_many_are_told_how_to_send_fewer():
    request = struct_pb2.ListValue(values=[struct_pb2.Value()] * (parts.MOST + 1))
    with pytest.raises(InvalidArgument, match="more than 20,000 parts") as caught:
        parts.check(request.SerializeToString(), struct_pb2.ListValue.DESCRIPTOR)
    assert caught.value.reason == "TOO_MANY_PARTS"


def test_unknown_fields_count_as_they_stand():
    unknown = struct_pb2.ListValue(values=[struct_pb2.Value()] * 50).SerializeToString()
    with pytest.raises(InvalidArgument):
        parts.check(unknown, types.Neuron.DESCRIPTOR, 49)


def test_every_call_has_its_message():
    assert parts.described("/lightwell.v1.ExplainerService/Estimate", explainer_pb2) is (
        estimate_pb2.EstimateRequest.DESCRIPTOR
    )
