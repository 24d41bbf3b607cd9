"""Random requests for a server, good ones and damaged ones, and what it may answer. Tests and benchmark share them.

A request starts as one that can be answered. Then fields that reflection finds are set to odd values, cleared or
repeated, and some requests lose or change bytes on their way. Pictures and steps are small: a server with `FLAGS`
refuses what would take long.
"""

from __future__ import annotations

import io
import re
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import grpc
import hypothesis.strategies as st
import numpy as np
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status
from hypothesis import HealthCheck, Phase, given, seed, settings
from PIL import Image as Pil
from prometheus_client.parser import text_string_to_metric_families

from lightwell import Client, Pgd, Saliency, Style, StyleTransfer
from lightwell.images import to_message, to_tensor
from lightwell.requests import explain_request, synthesize_request
from lightwell.v1 import estimate_pb2, explain_pb2, models_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types

FLAGS = ("--threads", "1", "--max-request-steps", "12", "--max-request-rows", "60", "--max-pixels", "1000000",
         "--max-memory-bytes", str(16 * 2**20), "--max-message-bytes", str(2**20))  # fmt: skip
"""Of a server whose every answer takes milliseconds."""
TOGETHER = 10
"""Requests in flight at once."""
QUICK = {"stride": 32, "steps": 4, "samples": 4, "max_channels": 4, "iterations": 2}
"""Parameters of methods that would take longer."""
PATIENCE = 60.0
"""Seconds that a caller waits who waits."""

RPCS: dict[type[Message], str] = {
    explain_pb2.ExplainRequest: "/lightwell.v1.ExplainerService/Explain",
    explain_pb2.ExplainStreamRequest: "/lightwell.v1.ExplainerService/ExplainStream",
    synthesize_pb2.SynthesizeRequest: "/lightwell.v1.ExplainerService/Synthesize",
    estimate_pb2.EstimateRequest: "/lightwell.v1.ExplainerService/Estimate",
    models_pb2.GetModelRequest: "/lightwell.v1.ModelService/GetModel",
    models_pb2.GetFiltersRequest: "/lightwell.v1.ModelService/GetFilters",
}
STREAMS = (explain_pb2.ExplainStreamRequest, synthesize_pb2.SynthesizeRequest)

Code = grpc.StatusCode
_LONG = re.compile(r'"((?:[^"\\]|\\.){100})(?:[^"\\]|\\.)*"')
EXPECTED = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
}
"""What may become of a message whose caller waits."""
HURRIED = EXPECTED | {Code.DEADLINE_EXCEEDED, Code.CANCELLED}
"""What may become of one whose caller does not."""


@dataclass(frozen=True, repr=False)
class Sent:
    """Bytes for the call of a kind of request. The caller waits `patience` seconds; one that `leaves` does so at once,
    or from a stream after its first message."""

    kind: type[Message]
    data: bytes
    patience: float = PATIENCE
    leaves: bool = False

    @property
    def message(self) -> Message | None:
        """The request, or None if the bytes are none."""
        try:
            return self.kind.FromString(self.data)
        except DecodeError:
            return None

    @property
    def method(self) -> str:
        """What is asked, for tables."""
        message: Any = self.message
        if message is None:
            return "(no message)"
        if isinstance(message, estimate_pb2.EstimateRequest):
            message = getattr(message, message.WhichOneof("request") or "", None)
        elif isinstance(message, explain_pb2.ExplainStreamRequest):
            message = message.request
        named = "method" in message.DESCRIPTOR.oneofs_by_name and message.WhichOneof("method") if message else None
        return f"{RPCS[self.kind].rpartition('/')[2]} {named or ''}".strip()

    def __repr__(self) -> str:
        return f"<{self.method}, {len(self.data)} bytes>"

    def __str__(self) -> str:
        message = self.message
        told = self.data.hex() if message is None else _LONG.sub(r'"\1..."', text_format.MessageToString(message))
        return f"{self.kind.__name__}, patience {self.patience}, leaves {self.leaves}:\n{told}"


@dataclass(frozen=True)
class Outcome:
    """How a call ended; `detailed` says whether the status came with the server's own details."""

    code: grpc.StatusCode
    text: str = ""
    detailed: bool = False
    seconds: float = 0.0


def wrong(sent: Sent, outcome: Outcome) -> str | None:
    """What is wrong with an outcome, or None."""
    if sent.message is None:  # gRPC itself refuses
        return "bytes that are no message were answered" if outcome.code is Code.OK else None
    hurried = sent.leaves or sent.patience < PATIENCE
    if outcome.code not in (HURRIED if hurried else EXPECTED):
        return f"{outcome.code.name} is not among what may be answered: {outcome.text}"
    if not outcome.detailed and outcome.code in EXPECTED - {Code.OK}:
        return f"{outcome.code.name} came without details: {outcome.text}"
    return None


def ask(channel: grpc.Channel, sent: Sent) -> Outcome:
    """Sends a request and waits for its end."""
    stream = sent.kind in STREAMS
    began = time.monotonic()
    try:
        if stream:
            responses = channel.unary_stream(RPCS[sent.kind])(sent.data, timeout=sent.patience)
            for _ in responses:
                if sent.leaves:
                    responses.cancel()
        else:
            future = channel.unary_unary(RPCS[sent.kind]).future(sent.data, timeout=sent.patience)
            if sent.leaves:
                future.cancel()
            future.result()
    except grpc.FutureCancelledError:
        return Outcome(Code.CANCELLED)
    except grpc.RpcError as error:
        return replace(outcome_of(error), seconds=time.monotonic() - began)
    return Outcome(Code.OK, seconds=time.monotonic() - began)


def outcome_of(error: Any) -> Outcome:
    """How a failed call ended."""
    return Outcome(error.code(), error.details() or "", rpc_status.from_call(error) is not None)


def fuzz(address: str, count: int, start: int, told: Callable[[Sent, Outcome], object]) -> None:
    """Sends `count` random requests, drawn from the seed `start`, several at a time; `told` is called with each and
    its outcome."""
    asked: deque[tuple[Sent, Future[Outcome]]] = deque()
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(TOGETHER) as threads:

        def first() -> None:
            sent, outcome = asked.popleft()
            told(sent, outcome.result())

        @seed(start)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # nothing fails before all are told
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(use_true_random=True))
        def send(rng: Random) -> None:
            sent = drawn(rng)
            asked.append((sent, threads.submit(ask, channel, sent)))
            if len(asked) > TOGETHER:
                first()

        send()
        while asked:
            first()


def reference(address: str) -> bytes:
    """The map that a server answers to one request, always the same; its bits."""
    with Client(address) as client:
        seen = client.explain(files()[0], Saliency(), target="star", reproducible=True, model="shapes")
    return seen.message.map.values.data


def scraped(port: int) -> dict[str, float]:
    """The server's metrics that have no labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


def busy(port: int, patience: float = 20.0) -> float:
    """Requests and jobs that a server still has after a while of waiting for it to have none."""
    end = time.monotonic() + patience
    while True:
        values = scraped(port)
        left = values["lightwell_jobs"] + values["lightwell_requests_in_progress"] + values["lightwell_queue_rows"]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def encoded(image: Pil.Image, form: str = "PNG") -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@cache
def files() -> tuple[bytes, ...]:
    """Small pictures, whole and broken."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    picture = Pil.fromarray(noise)
    whole = [encoded(picture, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    modes = [encoded(picture.convert(mode)) for mode in ("1", "L", "P", "RGBA", "I;16")]
    cut = [data[: len(data) // 2] for data in whole]
    odd = [b"", b"no image", b"\x89PNG\r\n\x1a\n", encoded(Pil.new("L", (1, 1))), encoded(Pil.new("1", (3000, 1)))]
    return (*whole, *modes, *cut, *odd)


@cache
def seeds() -> tuple[Message, ...]:
    """Requests that can be answered, of every call and method."""
    shown = np.random.default_rng(1).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    styles = [Style(image=types.Image(encoded=files()[0]), weight=1.0)]
    transfer = StyleTransfer(
        styles=styles,
        size=40,
        steps=2,
        content_layers=[{"layer": "features.2", "weight": 1.0}],
        style_layers=[{"layer": "features.2"}, {"layer": "features.6", "weight": 2.0}],
    )
    neuron, channel = types.Neuron(layer="features.2", channel=1), types.Channel(layer="features.6", channel=2)
    direction = types.Direction(layer="features.2", vector=to_tensor(np.linspace(-1, 1, 16)))
    element, contrast = types.Element(index=[4]), types.Contrast(class_index=1, against=2)
    targets: list[Any] = [None, 3, "star", contrast, neuron, channel, element, direction]
    fields = explain_pb2.ExplainRequest.DESCRIPTOR.oneofs_by_name["method"].fields
    kinds = ["map", "overlay", "sheet", "cutout"]
    methods = [quick(field.message_type) for field in fields]
    explain = [explain_request(shown, method, target=target) for method in methods for target in targets]
    explain += [explain_request(files()[0], method, fit="exact", pictures=kinds) for method in methods]
    made = [Pgd(steps=2), Pgd(steps=2, restarts=2, norm="NORM_L2", stop_early=False, targeted=4), transfer]
    synthesize = [synthesize_request(method, image=to_message(shown), previews=1) for method in made]
    estimates = [estimate_pb2.EstimateRequest(explain=request) for request in explain[::6]]
    estimates += [estimate_pb2.EstimateRequest(synthesize=request) for request in synthesize]
    streams = [explain_pb2.ExplainStreamRequest(request=request) for request in explain[-3:]]
    filters = models_pb2.GetFiltersRequest(layer="features.0", picture=True)
    models = [models_pb2.GetModelRequest(model="shapes"), filters]
    return (*explain, *synthesize * 9, *estimates, *streams, *models * 3)


def quick(kind: Descriptor) -> Message:
    """A method's message, with which it takes milliseconds."""
    return GetMessageClass(kind)(**{name: value for name, value in QUICK.items() if name in kind.fields_by_name})


_INTEGERS = (0, 1, -1, 2, 5, 14, 15, 32, 33, 97, 1000, 1001, 10_001, 2**31 - 1, -(2**31))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 1e-45, 1e-8, 3e38, -3e38, float("nan"), float("inf"), -float("inf"))
# fmt: off
_STRINGS = ("", "shapes", "1", "star", "starr", "features", "features.2", "features.6", "head", "head@0", "<output>",
            "<input>", "\0", "../shapes", "/etc/passwd", "a" * 10_000, "ü\u202e\U0001f600" * 300, "shapes\n", "{}%s")
# fmt: on
_F = FieldDescriptor
_VALUES: dict[int, Callable[[Random], Any]] = {
    _F.TYPE_STRING: lambda rng: rng.choice(_STRINGS),
    _F.TYPE_BYTES: lambda rng: rng.choice((*files(), rng.randbytes(rng.randrange(64)))),
    _F.TYPE_BOOL: lambda rng: rng.random() < 0.5,
    _F.TYPE_ENUM: lambda rng: rng.choice((*range(10), -1, 2**31 - 1)),
    _F.TYPE_FLOAT: lambda rng: rng.choice((*_FLOATS, rng.uniform(0, 10))),
    _F.TYPE_INT32: lambda rng: rng.choice((*_INTEGERS, rng.randrange(150))),
    _F.TYPE_INT64: lambda rng: rng.choice((*_INTEGERS, rng.randrange(150), 2**63 - 1, -(2**63))),
    _F.TYPE_UINT64: lambda rng: rng.choice((0, 1, 2**63 - 1, 2**63, 2**64 - 1)),
}


def drawn(rng: Random) -> Sent:
    """A request on its way."""
    original = rng.choice(seeds())
    message: Message = type(original)()
    message.CopyFrom(original)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        _mutate(rng, message)
    data = message.SerializeToString()
    if rng.random() < 0.2:
        data = _damaged(rng, data)
    patience = rng.uniform(0.001, 0.03) if rng.random() < 0.1 else PATIENCE
    return Sent(type(message), data, patience, leaves=rng.random() < 0.05)


def _mutate(rng: Random, message: Any) -> None:
    """Changes one field of a message, or of a message inside; rather one that is set."""
    if not message.DESCRIPTOR.fields:
        return
    present = [field for field, _ in message.ListFields()]
    field = rng.choice((*message.DESCRIPTOR.fields, *present * 3))
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        _mutate(rng, getattr(message, field.name)[rng.choice(_STRINGS)])
    elif field.is_repeated:
        _repeat(rng, field, getattr(message, field.name))
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _mutate(rng, inner)
    else:
        setattr(message, field.name, _VALUES[field.type](rng))


def _repeat(rng: Random, field: FieldDescriptor, entries: Any) -> None:
    """Changes an entry of a repeated field, or adds some."""
    if field.message_type is None:
        entries.extend([_VALUES[field.type](rng)] * rng.choice((1, 1, 2, 40)))
    elif entries and rng.random() < 0.7:
        _mutate(rng, rng.choice(entries))
    else:
        first = entries[0] if entries else entries.add()
        entries.extend([first] * rng.choice((1, 2, 40)))


def _damaged(rng: Random, data: bytes) -> bytes:
    """Bytes of which some are changed, and some may be missing at the end or come twice."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    end = rng.choice((len(data), len(data), len(data) // 2))
    return bytes(changed[:end]) + rng.choice((b"", b"", data))
