"""No request can harm the service: every bad one is refused with its exact code, reason and field, and afterwards the
server is well and idle."""

import math
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, is_dataclass
from types import UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from PIL import Image as Pil

from lightwell import (
    Activations,
    Cam,
    GradCam,
    IntegratedGradients,
    LayerCam,
    Occlusion,
    Pgd,
    Saliency,
    Segmentation,
    SmoothGrad,
    Style,
    StyleTransfer,
)
from lightwell.images import to_message, to_tensor
from lightwell.requests import explain_request, synthesize_request
from lightwell.transport.errors import from_rpc
from lightwell.v1 import estimate_pb2, explain_pb2, models_pb2, synthesize_pb2
from lightwell.v1 import types_pb2 as types
from lightwell_server.catalog import catalog
from tests.fuzzing import RPCS, STREAMS, busy, encoded
from tests.server.test_service import PAINTING, STAR, free_port
from tests.serving import bundled, served

FLAGS = ("--threads", "1", "--max-request-steps", "500", "--max-request-rows", "2000",
         "--max-memory-bytes", str(64 * 2**20), "--max-message-bytes", str(4 * 2**20))  # fmt: skip
SMALL = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
ONES = to_tensor(np.ones(7, np.float32))
TRANSFER = {"styles": [PAINTING], "size": 48, "steps": 2}
LONG = StyleTransfer(styles=[PAINTING], size=96, steps=500)
NAMES = ("../shapes", "/etc/passwd", "sha\0pes", "x" * 10_000, "\u202e\U0001f600" * 500)
"""What no model, version, layer, label or input is called."""


@dataclass(frozen=True)
class Row:
    """A bad request, and how it is refused; `code` OK: it looks bad, and is answered."""

    name: str
    request: Message
    code: str = "INVALID_ARGUMENT"
    reason: str = "INVALID_ARGUMENT"
    field: str = ""


def explain(method=None, image=SMALL, **options):
    options.setdefault("fit", "exact" if image is SMALL else "card")
    return explain_request(image, Saliency() if method is None else method, **options)


def synthesize(method, image=SMALL, **options):
    return synthesize_request(method, image=to_message(image), **options)


def estimate(request):
    kind = "explain" if isinstance(request, explain_pb2.ExplainRequest) else "synthesize"
    return estimate_pb2.EstimateRequest(**{kind: request})


def changed(request, **values):
    """A request with fields set by path, `__` for the dot."""
    for path, value in values.items():
        *inside, last = path.split("__")
        message = request
        for name in inside:
            message = getattr(message, name)
        setattr(message, last, value)
    return request


def tensor(shape, dtype=types.DATA_TYPE_UINT8, data=b""):
    return types.Image(tensor=types.Tensor(shape=shape, dtype=dtype, data=data))


def sized_header(form, side=20_000):
    """A file that claims to be `side` pixels wide and high, and holds a few bytes."""
    data = bytearray(encoded(Pil.fromarray(SMALL), form))
    if form == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = side.to_bytes(2, "big") * 2
    return bytes(data)


def images():
    """What is no image, or not one that can be used."""
    file = {form: encoded(Pil.fromarray(SMALL), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    for name, data in {
        "no image": b"not an image",
        "empty": b"",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "header of 20,000 x 20,000, PNG": sized_header("PNG"),
        "header of 20,000 x 20,000, JPEG": sized_header("JPEG"),
        "too long and thin": encoded(Pil.new("1", (60_000, 1))),
        "32 bits a pixel": encoded(Pil.new("I", (40, 40)), "TIFF"),
        **{f"half of a {form}": data[: len(data) // 2] for form, data in file.items()},
        **{f"the beginning of a {form}": data[:20] for form, data in file.items()},
    }.items():
        yield Row(name, explain(image=data), field="image")
    unset = explain()
    unset.ClearField("image")
    yield Row("no image at all", unset, field="image")
    yield Row("one pixel", explain(image=encoded(Pil.new("L", (1, 1)))), "OK", "")
    yield Row("one pixel, styled", synthesize(StyleTransfer(**TRANSFER), image=encoded(Pil.new("L", (1, 1)))), "OK", "")
    floats = {"NaN": math.nan, "infinite": math.inf, "above 1": 1.01, "below 0": -0.01}
    for name, value in floats.items():
        yield Row(f"{name} in a tensor", explain(image=np.full((40, 36, 3), value, np.float32)), field="image.tensor")
    for name, shape in {"no batch": [1, 3, 40, 36], "two channels": [2, 40, 36], "nothing": [3, 0, 4]}.items():
        data = bytes(math.prod(shape))
        yield Row(f"a tensor, {name}", explain(image=tensor(shape, data=data)), field="image.tensor.shape")
    for shape in ([-1, 3, 3], [1] * 65, [2**40] * 10_000, [0, 2**40, 2**40]):
        yield Row(f"a tensor of {str(shape)[:20]}", explain(image=tensor(shape)), field="image.tensor.shape")
    yield Row("bytes missing", explain(image=tensor([3, 40, 36], data=b"123")), field="image.tensor.data")
    yield Row("bytes for gigabytes", explain(image=tensor([3, 2**33, 2**33])), field="image.tensor.data")
    yield Row("int64 pixels", explain(image=tensor([3, 2, 2], types.DATA_TYPE_INT64, bytes(96))),
              field="image.tensor.dtype")  # fmt: skip
    for number in (types.DATA_TYPE_UNSPECIFIED, types.DATA_TYPE_BFLOAT16, 77):
        yield Row(f"dtype {number}", explain(image=tensor([3, 2, 2], number, bytes(12))), field="image.tensor.dtype")
    yield Row("an unknown fit", changed(explain(), image__fit=77), field="image.fit")
    yield Row("exact and too small", explain(image=np.zeros((9, 9, 3), np.uint8), fit="exact"), field="image.fit")
    yield Row("exact and too large for the memory", explain(image=np.zeros((1000, 1000, 3), np.uint8), fit="exact"),
              "RESOURCE_EXHAUSTED", "DEVICE_OUT_OF_MEMORY")  # fmt: skip


def names():
    """What is called nothing that there is."""
    for name in (*NAMES, "nothing"):
        short = name[:12]
        yield Row(f"model {short!r}", explain(model=name), "NOT_FOUND", "MODEL_NOT_FOUND")
        yield Row(f"version {short!r}", explain(version=name), "NOT_FOUND", "VERSION_NOT_FOUND")
        yield Row(f"GetModel {short!r}", models_pb2.GetModelRequest(model=name), "NOT_FOUND", "MODEL_NOT_FOUND")
        yield Row(f"label {short!r}", explain(target=name), field="target.label")
        yield Row(f"layer {short!r}", explain(target=types.Channel(layer=name)), field="target.channel.layer")
        path = f"inputs[{name}]"
        shown = path if len(path.encode()) <= 200 else path.encode()[:200].decode(errors="ignore") + "…"
        yield Row(f"input {short!r}", explain(inputs={name: np.zeros(3, np.int64)}), field=shown)


def targets():
    """Targets that the model does not have."""
    for name, target, field in (
        ("class 15 of 15", 15, "class_index"),
        ("class -1", -1, "class_index"),
        ("class 2^31 - 1", 2**31 - 1, "class_index"),
        ("an empty label", types.Target(label=""), "label"),
        ("a contrast out of range", types.Contrast(class_index=15), "contrast.class_index"),
        ("a contrast against out of range", types.Contrast(against=-1), "contrast.against"),
        ("a contrast of a class with itself", types.Contrast(class_index=3, against=3), "contrast.against"),
        ("a neuron of no layer's channel", types.Neuron(channel=15), "neuron.channel"),
        ("a neuron of the output", types.Neuron(layer="<output>"), "neuron.layer"),
        ("a neuron's channel", types.Neuron(layer="features.2", channel=16), "neuron.channel"),
        ("a neuron's row", types.Neuron(layer="features.2", row=96), "neuron.row"),
        ("a neuron's column", types.Neuron(layer="features.2", column=-1), "neuron.column"),
        ("a neuron at another size than the card's", types.Neuron(layer="features.2", row=90, column=90), "neuron"),
        ("a channel out of range", types.Channel(layer="head", channel=15), "channel.channel"),
        ("a channel below", types.Channel(layer="head", channel=-1), "channel.channel"),
        ("an element of nothing", types.Element(), "element.index"),
        ("an element out of range", types.Element(index=[15]), "element.index"),
        ("an element of another output", types.Element(output="other", index=[1]), "element.output"),
        ("a direction without a vector", types.Direction(layer="head"), "direction.vector.dtype"),
        ("a direction that is too short", types.Direction(layer="head", vector=ONES), "direction.vector"),
        ("a direction of no layer", types.Direction(layer="hed", vector=ONES), "direction.layer"),
        ("an unknown reading", types.Target(class_index=1, readout=77), "readout"),
        ("the probability of a neuron",
         types.Target(neuron=types.Neuron(layer="head"), readout=types.READOUT_PROBABILITY), "readout"),
    ):  # fmt: skip
        yield Row(name, explain(target=target), field=f"target.{field}")


def forms():
    """What is wrong around image, target and method."""
    for count in (-1, 1001, 2**31 - 1, -(2**31)):
        yield Row(f"{count} predictions", changed(explain(), output__predictions=count), field="output.predictions")
        previews = changed(synthesize(Pgd(steps=1)), output__previews=count)
        yield Row(f"{count} previews", previews, field="output.previews")
    for number in (types.DATA_TYPE_UINT8, types.DATA_TYPE_FLOAT64, 77):
        yield Row(f"output as {number}", changed(explain(), output__dtype=number), field="output.dtype")
    drawn = explain()
    drawn.output.pictures.extend([1, 77])
    yield Row("an unknown picture", drawn, field="output.pictures[1]")
    for seed in (0, 2**63 - 1, 2**63, 2**64 - 1):
        yield Row(f"seed {seed}", synthesize(Pgd(steps=1), seed=seed), "OK", "")
    good = explain()
    unset = explain_pb2.ExplainRequest(image=good.image)
    yield Row("no method", unset, field="method")
    yield Row("no method, streamed", explain_pb2.ExplainStreamRequest(request=unset), field="method")
    yield Row("no method, estimated", estimate(unset), field="method")
    yield Row("an explanation sent to Synthesize",
              synthesize_pb2.SynthesizeRequest.FromString(good.SerializeToString()), field="method")  # fmt: skip
    yield Row("a synthesis sent to Explain",
              explain_pb2.ExplainRequest.FromString(synthesize(Pgd()).SerializeToString()), field="method")  # fmt: skip
    yield Row("unknown fields", explain_pb2.ExplainRequest.FromString(good.SerializeToString() + b"\xb8\x3e\x07"),
              "OK", "")  # fmt: skip
    yield Row("an empty request", explain_pb2.ExplainRequest(), field="method")
    yield Row("an empty synthesis", synthesize_pb2.SynthesizeRequest(), field="method")
    yield Row("an empty stream", explain_pb2.ExplainStreamRequest(), field="method")
    yield Row("an empty estimate", estimate_pb2.EstimateRequest(), field="request")
    bad = explain(Occlusion(window=0))
    yield Row("an estimate of a bad request", estimate(bad), field="occlusion.window")
    yield Row("a stream of a bad request", explain_pb2.ExplainStreamRequest(request=bad), field="occlusion.window")


def sums():
    """Parameters that are bad beside each other, or for this model or server."""
    yield Row("a layer without height and width", explain(GradCam(layer="head")), field="grad_cam.layer")
    yield Row("a window larger than the image", explain(Occlusion(window=37)), field="occlusion.window")
    yield Row("a stride that leaves the image", explain(Occlusion(stride=2**31 - 1)), "OK", "")
    yield Row("more rows than are allowed", explain(Occlusion(stride=1), image=STAR), reason="TOO_MANY_ROWS")
    short = IntegratedGradients(steps=1, quadrature="QUADRATURE_TRAPEZOID")
    yield Row("a trapezoid with one end", explain(short), field="integrated_gradients.steps")
    yield Row("two means at once", explain(SmoothGrad(squared=True, variance=True)), field="smooth_grad.variance")
    yield Row("a background above", explain(Segmentation(background=0.9, foreground=0.1)),
              field="segmentation.background")  # fmt: skip
    early = types.Channel(layer="features.2")
    yield Row("a CAM of a channel", explain(Cam(), target=early), field="target")
    yield Row("a CAM of a probability", explain(Cam(), target=types.Target(class_index=1, readout=2)), field="target")
    behind = explain(LayerCam(layer="features.6"), target=early)
    yield Row("a layer behind the target", behind, reason="NO_INFLUENCE")
    many = explain(Activations(layer="features.0"), np.zeros((300, 300, 3), np.uint8), fit="exact")
    yield Row("an answer too large for a message", many, reason="ANSWER_TOO_LARGE")
    for name, layer in {"no": "hed", "no convolution's": "features.2"}.items():
        yield Row(f"weights of {name} layer", models_pb2.GetFiltersRequest(layer=layer), field="layer")
    yield Row("weights of no model", models_pb2.GetFiltersRequest(model="no"), "NOT_FOUND", "MODEL_NOT_FOUND")
    for name, method in {"steps": Pgd(steps=501), "steps and restarts": Pgd(steps=300, restarts=2)}.items():
        yield Row(f"more {name} than are allowed", synthesize(method), field="pgd.steps")
        yield Row(f"more {name} than are allowed, estimated", estimate(synthesize(method)), field="pgd.steps")
    long = StyleTransfer(**{**TRANSFER, "steps": 501})
    yield Row("more steps of a style transfer", synthesize(long), field="style_transfer.steps")
    yield Row("an attack on a class that is none", synthesize(Pgd(targeted=15)), field="pgd.targeted")
    yield Row("an attack on a neuron", synthesize(Pgd(), target=types.Neuron(layer="head")), field="target")
    yield Row("no styles", synthesize(StyleTransfer(steps=1)), field="style_transfer.styles")
    for count in (17, 1000):
        many = StyleTransfer(**{**TRANSFER, "styles": [Style(image=types.Image(encoded=b"no image"))] * count})
        yield Row(f"{count} styles", synthesize(many), field="style_transfer.styles")
    layers = StyleTransfer(**TRANSFER, style_layers=[{"layer": f"no{i}"} for i in range(5_000)])
    yield Row("5,000 layers", synthesize(layers), field="style_transfer.style_layers")
    for name, image, field in (
        ("unset", types.Image(), "style_transfer.styles[0].image"),
        ("broken", types.Image(encoded=b"no image"), "style_transfer.styles[0].image"),
        ("too large beside the others", types.Image(encoded=encoded(Pil.new("1", (7071, 7071)))),
         "style_transfer.styles[0].image"),
    ):  # fmt: skip
        method = StyleTransfer(**{**TRANSFER, "styles": [Style(image=image)]})
        yield Row(f"a style {name}", synthesize(method), field=field)
    yield Row("a style without its image", synthesize(StyleTransfer(styles=[Style(weight=1)])),
              field="style_transfer.styles[0].image")  # fmt: skip
    flat = StyleTransfer(**TRANSFER, style_layers=[{"layer": "features.2"}, {"layer": "head"}])
    for request in (synthesize(flat), estimate(synthesize(flat))):
        yield Row("a style at a layer without height and width", request, field="style_transfer.style_layers[1].layer")
    thin = Style(image=to_message(np.zeros((300, 1, 3), np.uint8)))
    yield Row("a style too thin for the model",
              synthesize(StyleTransfer(**{**TRANSFER, "styles": [thin]})), reason="SIZE_NOT_SUPPORTED")  # fmt: skip
    free = StyleTransfer(**TRANSFER, content_weight=0, style_weight=0, tv_weight=0)
    yield Row("losses without weight", synthesize(free), "OK", "")
    heavy = StyleTransfer(**TRANSFER, content_weight=3e38, style_weight=3e38, tv_weight=3e38, rate=1000)
    yield Row("losses beyond all numbers", synthesize(heavy), "OK", "")
    yield Row("a ball beyond all numbers", synthesize(Pgd(epsilon=3e38, step=3e38, steps=2)), "OK", "")


def parameters():
    """Every parameter of every method: below its range, above it, not finite; enums and names that are none."""
    for method in catalog().values():
        request = explain_pb2.ExplainRequest if method.kind == "explain" else synthesize_pb2.SynthesizeRequest
        message = request.DESCRIPTOR.fields_by_name[method.name].message_type
        hints = get_type_hints(method.function, include_extras=True)
        for field in message.fields:
            for path, fill in wrong(field, hints[field.name]):
                bad = explain() if method.kind == "explain" else synthesize(StyleTransfer())
                if method.name == "style_transfer":
                    bad.style_transfer.CopyFrom(StyleTransfer(**TRANSFER))
                getattr(bad, method.name).SetInParent()
                shown = fill(getattr(bad, method.name))
                yield Row(f"{method.name}.{path} = {str(shown)[:20]!r}", bad, field=f"{method.name}.{path}")


def wrong(field: FieldDescriptor, hint):
    """Pairs of the path that is refused and a function that sets a bad value in the method's message and tells it."""
    if field.is_repeated:
        part = next(type_ for type_ in unfolded(hint) if is_dataclass(type_))
        for inner in field.message_type.fields:
            for path, fill in wrong(inner, get_type_hints(part, include_extras=True)[inner.name]):
                yield f"{field.name}[0].{path}", lambda message, fill=fill: fill(_first(message, field.name))
    elif field.message_type is types.Color.DESCRIPTOR:
        for color in ("red", "green", "blue"):
            for value in (-0.01, 1.01, math.nan, math.inf):
                yield f"{field.name}.{color}", _setter(lambda m: getattr(m, field.name), color, value)
    elif field.message_type is types.Image.DESCRIPTOR:
        for data in (b"", b"no image"):
            yield field.name, lambda message, data=data: setattr(getattr(message, field.name), "encoded", data) or data
    elif field.message_type is None:
        for value in bad_values(field, hint):
            yield field.name, _setter(lambda message: message, field.name, value)


def _first(message, name):
    entries = getattr(message, name)
    return entries[0] if entries else entries.add(layer="features.2")


def _setter(inside, name, value):
    def fill(message):
        setattr(inside(message), name, value)
        return value

    return fill


def bad_values(field: FieldDescriptor, hint):
    """Values that a parameter with this annotation refuses."""
    if field.enum_type is not None:
        return [77, -1, 2**31 - 1]
    if field.type == FieldDescriptor.TYPE_STRING:
        return ["", "no", *NAMES]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return []
    found = [math.nan, math.inf, -math.inf] if field.type == FieldDescriptor.TYPE_FLOAT else []
    for bound in unfolded(hint):
        below, above = getattr(bound, "gt", None), getattr(bound, "lt", None)
        least, most = getattr(bound, "ge", None), getattr(bound, "le", None)
        found += [value for value in (below, above) if value is not None]
        found += [least - 1, least - 1000] if least is not None else []
        found += [most + 1, most * 1000] if most is not None else []
        found += [below - 1] if below is not None else []
    return found


def unfolded(hint):
    """All that an annotation consists of: types, and the bounds beside them."""
    if get_origin(hint) is Annotated:
        return [*unfolded(get_args(hint)[0]), *hint.__metadata__]
    if get_origin(hint) in (Union, UnionType, tuple):
        return [part for inner in get_args(hint) for part in unfolded(inner)]
    return [hint]


TABLE = [*images(), *names(), *targets(), *forms(), *sums(), *parameters()]


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def server(port):
    with served(bundled(), *FLAGS, "--metrics-port", str(port)) as server:
        yield server
        assert server.process.poll() is None, "the server died"


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def ask(channel, request, data=None, **options):
    """The answer's code, reason, fields and sentence."""
    rpc, sent = RPCS[type(request)], request.SerializeToString() if data is None else data
    options.setdefault("timeout", 60)
    try:
        if isinstance(request, STREAMS):
            list(channel.unary_stream(rpc)(sent, **options))
        else:
            channel.unary_unary(rpc)(sent, **options)
    except grpc.RpcError as error:
        told = from_rpc(error, "")
        return told.code.name, told.reason, [field for field, _ in told.violations], told.message
    return "OK", "", [], ""


def well(channel):
    return ask(channel, explain())[0] == "OK"


def test_the_table_is_whole():
    asked = {(type(row.request), row.name) for row in TABLE}
    assert len(asked) == len(TABLE) >= 75
    listed = {row.field for row in parameters()}
    for method in catalog().values():
        for name, field in method.checked.model_fields.items():
            plain = field.annotation is bool
            assert plain or any(path.startswith(f"{method.name}.{name}") for path in listed), (method.name, name)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_bad_request_is_refused_by_name(channel, row):
    began = time.monotonic()
    code, reason, fields, message = ask(channel, row.request)
    seconds = time.monotonic() - began
    assert (code, reason, fields) == (row.code, row.reason, [row.field] if row.field else []), message
    assert code == "OK" or (len(message) > 10 and seconds < 10)
    assert well(channel)


def test_what_is_no_message_is_refused(channel, port):
    good = explain()
    surrogate, endless = b"\x0a\x03\xed\xa0\x80", b"\x0a\xff\xff\xff\xff\x0f"
    for data in (b"\xff\xff\xff", surrogate, endless, good.SerializeToString()[:-1]):
        assert ask(channel, good, data)[:2] == ("INVALID_ARGUMENT", "NO_MESSAGE")
    assert well(channel) and not busy(port)


def test_a_message_that_is_too_large_is_refused(channel, port):
    code, _, _, message = ask(channel, explain(image=bytes(5 * 2**20)))
    assert code == "RESOURCE_EXHAUSTED" and "4194304" in message
    assert well(channel) and not busy(port)


def test_compressed_requests_are_answered_and_unpacked_within_the_limit(channel, port):
    assert ask(channel, explain(), compression=grpc.Compression.Gzip)[0] == "OK"
    bomb = explain(image=bytes(100 * 2**20))
    assert ask(channel, bomb, compression=grpc.Compression.Gzip)[0] == "RESOURCE_EXHAUSTED"
    assert well(channel) and not busy(port)


@pytest.mark.parametrize("seconds", [-1, 0, 0.001])
def test_a_deadline_that_is_past_or_near_is_kept(channel, port, seconds):
    slow = explain(Occlusion(stride=4), image=STAR)
    requests = (slow, explain_pb2.ExplainStreamRequest(request=slow), synthesize(LONG))
    assert {ask(channel, request, timeout=seconds)[0] for request in requests} == {"DEADLINE_EXCEEDED"}
    assert not busy(port) and well(channel)


@pytest.mark.parametrize("seconds", [0, 0.003, 0.02, 0.1, 0.3])
def test_callers_may_leave_at_any_moment(channel, port, seconds):
    """In the queue, on the device, in the middle of a stream."""
    long = synthesize(LONG)
    stream = channel.unary_stream(RPCS[type(long)])(long.SerializeToString(), timeout=60)
    next(stream)
    slow = explain(Occlusion(stride=4), image=STAR)
    calls = [channel.unary_unary(RPCS[type(slow)]).future(slow.SerializeToString(), timeout=60) for _ in range(8)]
    time.sleep(seconds)
    for call in (*calls, stream):
        call.cancel()
    assert not busy(port) and well(channel)


@pytest.mark.parametrize("name", ["x" * 129, "two words", "x" * 4000, ""])
def test_a_request_may_be_called_anything(channel, name):
    request = explain()
    _, call = channel.unary_unary(RPCS[type(request)]).with_call(
        request.SerializeToString(), timeout=60, metadata=(("x-request-id", name),)
    )
    (told,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    assert told == name if name == "two words" else len(told) == 32


def test_many_tiny_messages_at_once(channel, port):
    empty = explain_pb2.ExplainRequest()
    with ThreadPoolExecutor(32) as threads:
        codes = set(threads.map(lambda _: ask(channel, empty)[0], range(1000)))
    assert codes == {"INVALID_ARGUMENT"} and well(channel) and not busy(port)
