"""Decoding and drawing: short work never waits for long work, and nothing is done for who has left."""

import asyncio
import gc
import io
import threading
import weakref

import pytest
from PIL import ExifTags
from PIL import Image as Pil

from lightwell.pictures import decode
from lightwell.v1 import explain_pb2, models_pb2
from lightwell_server.codec import images, pictures
from lightwell_server.errors import InvalidArgument
from lightwell_server.gateway.codec_pool import LONG, CodecPool
from lightwell_server.gateway.images import read_headers
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.requests.call import Call, current

TURNED = Pil.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def begun(codec, caller, seconds, function, stop=None):
    """A task of a caller that runs a function of about so many seconds."""

    async def run():
        current.set(Call("id", "rpc", caller))
        return await codec.run("decode", seconds, function, stop)

    return asyncio.ensure_future(run())


def encoded(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def test_short_work_does_not_wait_for_long_work():
    async def check():
        codec, go, threads = CodecPool(2**20), threading.Event(), []

        def long():
            threads.append(threading.get_ident())
            go.wait(60)

        flood = [begun(codec, "a", LONG, long) for _ in range(50)]
        assert await asyncio.wait_for(begun(codec, "a", 0.0, lambda: 7), 30) == 7
        late = begun(codec, "b", LONG, lambda: len(threads))
        go.set()
        assert await late <= 2 * codec._long.total + 1, "the other caller comes before the rest of the flood"
        await asyncio.gather(*flood)
        assert len(threads) == 50

    asyncio.run(check())


def test_small_pictures_wait_for_no_large_ones():
    async def story():
        codec = CodecPool(64 * 2**20)
        async with codec.room("a", codec.largest), codec.room("b", 2**20), codec.room("a", 2**20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), codec.room("b", 3 * 2**20):
                    pass

    asyncio.run(story())


def test_a_webp_is_not_opened_before_it_is_decoded(monkeypatch):
    data = encoded(Pil.new("RGB", (64, 48)), "WEBP")
    monkeypatch.setattr(decode, "opened", lambda file: pytest.fail("its decoder takes memory at once"))
    assert pictures.headed(data, "image").size == pictures.header_size(data) == (48, 64)


@pytest.mark.parametrize(
    "mode, options",
    [("RGB", {}), ("RGB", {"lossless": True}), ("RGBA", {}), ("RGBA", {"lossless": True}), ("RGB", {"exif": TURNED})],
)
def test_the_header_of_a_webp_tells_its_size(mode, options):
    for size in ((1, 1), (300, 200), (16383, 2)):
        data = encoded(Pil.new(mode, size), "WEBP", **options)
        assert pictures.headed(data, "image").size == size[::-1]


def test_a_picture_of_another_size_than_its_header_tells_is_not_decoded(monkeypatch):
    data = encoded(Pil.new("RGB", (64, 48)), "WEBP")
    monkeypatch.setattr(pictures, "_webp_size", lambda data: (48, 63))
    with pytest.raises(InvalidArgument, match="cannot be decoded: its header tells another size; save it anew"):
        pictures.headed(data, "image").decoded()


def test_a_webp_that_would_take_too_long_is_refused_by_its_header():
    """However many pixels the server takes."""
    data = bytearray(encoded(Pil.new("RGB", (64, 48)), "WEBP", exif=TURNED))
    assert data[12:16] == b"VP8X"
    data[24:30] = (11_999).to_bytes(3, "little") * 2
    with pytest.raises(InvalidArgument, match="would take about 7 seconds to decode: it is large; send a smaller one"):
        pictures.headed(bytes(data), "image", max_pixels=150_000_000)


def test_files_are_let_go_of_once_they_are_decoded():
    model, asked = described(), explain_pb2.ExplainRequest(saliency={})
    asked.image.encoded = encoded(Pil.new("RGB", (64, 48)), "PNG")
    found = read_headers(asked, model)
    picture = weakref.ref(found.images[0].file.opened())
    assert found.seen().request.image.tensor.shape == [3, 32, 32] and picture() is None


def described():
    """A model of which is known what decoding needs to know."""
    model = models_pb2.GetModelResponse(card={"height": 32, "width": 32, "resize": 32, "channels": 3})
    model.card.interpolation = models_pb2.INTERPOLATION_BILINEAR
    return model


def test_who_leaves_has_the_work_stopped_and_keeps_its_place_until_it_has():
    async def check():
        codec, stop, began = CodecPool(2**20), threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def work():
            loop.call_soon_threadsafe(began.set)
            assert stop.wait(60), "it was not told to stop"

        task = begun(codec, "a", LONG, work, stop)
        await began.wait()
        assert codec._long.held == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stop.is_set() and codec._long.held == 0

    asyncio.run(check())


def test_what_is_raised_after_the_caller_has_left_is_not_logged(caplog):
    async def check():
        codec, stop, began = CodecPool(2**20), threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def work():
            loop.call_soon_threadsafe(began.set)
            assert stop.wait(60), "it was not told to stop"
            raise InterruptedError("nobody waits for it any more")

        task = begun(codec, "a", 0.0, work, stop)
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(check())
    gc.collect()
    assert not caplog.records


def test_work_in_the_event_loop_is_noted_as_other_work_is():
    metrics = GatewayMetrics()
    codec, call = CodecPool(2**20, metrics), Call("id", "rpc", "a")
    current.set(call)
    assert codec.run_inline("encode", lambda: 7) == 7 and call.spans[0].name == "encode"
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    counted = [s.value for s in samples if s.name == "lightwell_codec_seconds_count" and s.labels == {"what": "encode"}]
    assert counted == [1]


def test_a_picture_is_not_decoded_on_when_nobody_wants_it():
    stop = threading.Event()
    noise = Pil.effect_noise((800, 800), 90)
    file = pictures.headed(encoded(noise, "PNG"), "image", stop=stop)
    stop.set()
    with pytest.raises(InvalidArgument, match="nobody waits for it any more"):
        file.decoded()
    with pytest.raises(InterruptedError):
        images.png(noise, stop)


@pytest.mark.parametrize(
    "picture, form, options, most",
    [
        (Pil.new("RGB", (64, 48)), "JPEG", {}, 4),
        (Pil.new("RGB", (64, 48)), "JPEG", {"progressive": True}, 10),
        (Pil.new("CMYK", (64, 48)), "JPEG", {}, 8),
        (Pil.new("RGB", (64, 48)), "JPEG", {"exif": TURNED}, 8),
        (Pil.new("RGB", (64, 48)), "PNG", {}, 8),
        (Pil.new("RGBA", (64, 48)), "PNG", {}, 16),
        (Pil.new("RGB", (64, 48)), "WEBP", {}, 20),
        (Pil.new("L", (64, 48)), "GIF", {}, 16),
        (Pil.new("RGB", (64, 48)), "BMP", {}, 8),
    ],
)
def test_the_header_tells_what_decoding_takes(picture, form, options, most):
    file = pictures.headed(encoded(picture, form, **options), "image")
    assert (file.size, file.bytes) == ((48, 64), most * 48 * 64) and 0 < file.seconds < 0.001


def test_a_picture_that_would_take_too_long_is_told_how_to_be_sent(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_SECONDS", 1e-4)
    data = encoded(Pil.new("RGB", (64, 64)), "JPEG", progressive=True)
    with pytest.raises(InvalidArgument, match="scans; save it anew as baseline"):
        pictures.headed(data, "image")
    assert pictures.headed(encoded(Pil.new("RGB", (64, 64)), "JPEG"), "image").decoded().size == (64, 64)
