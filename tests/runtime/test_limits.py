"""What a request may ask for: refused before it is run, with a sentence that says what would do; and what it would
cost."""

import time

import grpc
import numpy as np
import pytest
import torch
from PIL import Image as Pil
from prometheus_client.parser import text_string_to_metric_families

from lightwell import Client, DeadlineError, InvalidArgumentError, Occlusion, OverloadedError, Pgd, Saliency
from lightwell.requests import explain_request, synthesize_request
from lightwell.v1 import estimate_pb2, explain_pb2, explainer_pb2_grpc
from lightwell_server.contract import ACT, GRAD, SCORE, Ask, Part
from lightwell_server.errors import OutOfMemory
from lightwell_server.models.answer import answer
from lightwell_server.models.footprint import row_bytes
from lightwell_server.runtime.limits import Limits, free_bytes
from tests.nets import Residual, lifted, seeded
from tests.server.test_service import PAINTING, STAR, StyleTransfer, free_port
from tests.serving import bundled, served


@pytest.fixture(scope="module")
def server():
    flags = ["--threads", "1", "--max-memory-bytes", str(64 * 2**20), "--max-request-rows", "2000"]
    with served(bundled(), *flags, "--max-request-steps", "500", "--max-streams-per-caller", "2",
                "--max-gateway-bytes", str(120 * 2**20)) as server:  # fmt: skip
        yield server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield explainer_pb2_grpc.ExplainerServiceStub(channel)


def estimated(stub, method, image=STAR, **options):
    kind = "explain" if type(method).__name__ in ("Saliency", "Occlusion", "GradCam") else "synthesize"
    request = (
        explain_request(image, method, **options)
        if kind == "explain"
        else synthesize_request(method, image=image, **options)
    )
    return stub.Estimate(estimate_pb2.EstimateRequest(**{kind: request}))


def test_an_estimate_counts_what_the_method_asks_for(stub):
    saliency = estimated(stub, Saliency())
    assert (saliency.applies, saliency.cost.rows, saliency.cost.gradients) == (True, 1, 1)
    occlusion = estimated(stub, Occlusion(window=32, stride=8)).cost
    assert (occlusion.rows, occlusion.gradients) == (1 + 9 * 9, 0)
    pgd = estimated(stub, Pgd(steps=40, restarts=2)).cost
    assert pgd.steps == 80 and 80 <= pgd.rows <= 84 and pgd.gradients == 80 and pgd.may_stop_early
    assert not estimated(stub, Pgd(stop_early=False)).cost.may_stop_early
    assert 100 <= estimated(stub, Pgd(steps=1, restarts=50), target="star").cost.rows <= 104
    style = estimated(stub, StyleTransfer(styles=[PAINTING], size=64, steps=200)).cost
    assert style.steps == 200 and style.gradients == 200 and style.rows == 202
    assert style.memory_limit_bytes == 64 * 2**20 > style.memory_bytes > 0


def test_an_estimate_says_how_the_request_was_understood(stub):
    resolved = estimated(stub, Occlusion(window=20), target="star").explain
    assert resolved.model == "shapes" and resolved.occlusion.stride == 16 and not resolved.image.encoded


def test_an_estimate_is_right(client, stub):
    """Rows against what is answered: steps of one row each."""
    method = Pgd(steps=7, stop_early=False)
    done = client.synthesize(method, image=STAR).result()
    assert abs(estimated(stub, method).cost.rows - done.provenance.steps) <= 1


def test_seconds_come_from_experience(client, stub):
    for _ in range(3):
        client.explain(STAR, Saliency())
    cost = estimated(stub, Saliency()).cost
    assert cost.HasField("device_seconds") and 0 < cost.device_seconds < 5
    odd = estimated(stub, Saliency(), image=np.zeros((97, 83, 3), np.uint8), fit="exact").cost
    assert not odd.HasField("device_seconds")


def test_a_bad_request_fails_its_estimate_alike(stub):
    for bad, code in ((Occlusion(window=0), "INVALID_ARGUMENT"), (Pgd(steps=501), "INVALID_ARGUMENT")):
        with pytest.raises(grpc.RpcError) as caught:
            estimated(stub, bad)
        assert caught.value.code().name == code
    with pytest.raises(grpc.RpcError, match="set one of explain, synthesize"):
        stub.Estimate(estimate_pb2.EstimateRequest())


def test_a_picture_too_large_for_the_memory_is_refused_with_a_size_that_fits(client):
    large = np.zeros((1500, 1000, 3), np.uint8)
    with pytest.raises(OverloadedError, match=r"1500 x 1000 with its gradient needs about") as caught:
        client.explain(large, Saliency(), fit="exact")
    assert caught.value.reason == "DEVICE_OUT_OF_MEMORY" and caught.value.retry_seconds is None
    height, width = (int(word) for word in str(caught.value).rpartition("; about ")[2].split()[:3:2])
    assert 100 < height < 1500 and abs(height / width - 1.5) < 0.02
    fitting = np.zeros((height, width, 3), np.uint8)
    assert client.explain(fitting, Saliency(), fit="exact").map.shape == (height, width)


def test_a_synthesis_too_large_for_the_memory_runs_no_step(client):
    began = time.monotonic()
    with pytest.raises(OverloadedError, match="would fit"):
        client.synthesize(StyleTransfer(styles=[PAINTING], size=2048), image=STAR).result()
    assert time.monotonic() - began < 20
    assert client.explain(STAR, Saliency()).target.label == "star"


def test_rows_of_a_step_are_bounded_by_memory(tmp_path):
    graph = lifted(seeded(Residual), tmp_path)
    ask = Ask(torch.rand(4, 3, 16, 16), lambda out, index: out[:, 0], want=GRAD)
    one = row_bytes(graph, ask)
    assert Limits(memory=3 * one).fitting(graph, ask) == 3
    with pytest.raises(OutOfMemory):
        Limits(memory=one - 1).fitting(graph, ask)
    assert row_bytes(graph, Ask(torch.rand(1, 3, 32, 16), ask.score, want=GRAD)) == 2 * one
    assert row_bytes(graph, Ask(torch.rand(1, 3, 16, 16), ask.score, want=SCORE)) < one


@pytest.mark.parametrize("form", ["traced", "frozen", "pt2"])
def test_the_prediction_covers_what_a_backward_pass_keeps(tmp_path, form):
    """Beside the real thing: all that autograd keeps for the way back."""
    graph = lifted(seeded(Residual), tmp_path, form, side=64)
    ask = Ask(torch.rand(1, 3, 64, 64), lambda out, index: out[:, 0], want=GRAD | ACT)
    kept = {}

    def pack(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        answer(graph, [Part(ask, 0, 1)])
    weights = {constant.untyped_storage().data_ptr() for constant in graph.root.buffers()}
    real = sum(size for place, size in kept.items() if place not in weights)
    assert real <= row_bytes(graph, ask) <= 3 * real


def test_too_many_rows_are_refused(client):
    with pytest.raises(InvalidArgumentError, match=r"4,225 rows at once and may for 2,000") as caught:
        client.explain(STAR, Occlusion(stride=1))
    assert caught.value.reason == "TOO_MANY_ROWS"


def test_too_many_steps_are_refused(client):
    with pytest.raises(InvalidArgumentError, match="plans 600 steps; this server runs 500") as caught:
        client.synthesize(Pgd(steps=300, restarts=2), image=STAR).result()
    assert caught.value.violations[0][0] == "pgd.steps"


def test_a_caller_has_so_many_streams(client):
    long = StyleTransfer(styles=[PAINTING], size=64, steps=500)
    streams = [client.synthesize(long, image=STAR) for _ in range(2)]
    ways = [iter(stream) for stream in streams]
    for way in ways:
        next(way)
    with pytest.raises(OverloadedError, match="2 streams open") as caught:
        client.synthesize(long, image=STAR).result()
    assert caught.value.reason == "TOO_MANY_STREAMS" and caught.value.retry_seconds > 0
    for stream in streams:
        stream.cancel()
    time.sleep(0.5)
    assert client.synthesize(Pgd(steps=1), image=STAR).result().image


def test_a_deadline_shorter_than_the_rows_that_are_left_is_told_in_time(server, client):
    client.explain(STAR, Occlusion(stride=4))  # the server knows now what such rows cost
    began = time.monotonic()
    with Client(server.address, timeout=0.25) as hurried, pytest.raises(DeadlineError) as caught:
        hurried.explain(STAR, Occlusion(stride=2))
    # Told at once, if the machine was free while the server learned; else at the end, by its clock or the caller's own.
    assert caught.value.reason in ("DEADLINE_TOO_SHORT", "DEADLINE_EXCEEDED", "")
    assert time.monotonic() - began < 1


def test_pictures_in_progress_do_not_fill_the_memory(client):
    """Half of the gateway's memory may hold them, a half of that those of one caller; one request alone is let in."""
    large = Pil.new("RGB", (1000, 1000))
    long = StyleTransfer(styles=[PAINTING], size=256, steps=500)
    stream = client.synthesize(long, image=large)
    way = iter(stream)
    next(way)
    with pytest.raises(OverloadedError, match="the pictures of the requests in progress") as caught:
        client.synthesize(long, image=large).result()
    assert caught.value.reason == "QUEUE_FULL" and caught.value.retry_seconds > 0
    assert client.explain(STAR, Saliency()).target.label == "star"
    stream.cancel()


def test_an_explanation_streams_the_rows_it_has_passed(stub):
    request = explain_pb2.ExplainStreamRequest(request=explain_request(STAR, Occlusion(stride=4)))
    *progress, last = stub.ExplainStream(request)
    rows = [event.progress.passes_done for event in progress]
    assert len(rows) > 1 and rows == sorted(set(rows)) and rows[-1] == 17 * 17
    assert {event.progress.passes_total for event in progress} == {17 * 17}
    alone = stub.Explain(request.request)
    for made in (last.result, alone):
        made.provenance.Clear()
    close = np.frombuffer(last.result.map.values.data, "f4") - np.frombuffer(alone.map.values.data, "f4")
    assert abs(close).max() < 1e-5 and last.result.resolved == alone.resolved


def test_a_cancelled_request_counts_what_it_saved():
    import urllib.request

    port = free_port()
    with served(bundled(), "--metrics-port", str(port)) as server, Client(server.address) as client:
        stream = client.synthesize(StyleTransfer(styles=[PAINTING], size=64, steps=1000), image=STAR)
        for frame in stream:
            if frame.step == 20:
                stream.cancel()
                break
        time.sleep(1)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {each.name: each.value for each in samples if each.labels.get("method") == "style_transfer"}
    used, saved = values["lightwell_device_seconds_total"], values["lightwell_saved_device_seconds_total"]
    assert 1000 / 60 - 1 < saved / used < 1000 / 19  # it was cancelled between its 20th and its 60th step


def test_free_memory_is_known():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


def test_a_slow_reader_gets_the_newest(tmp_path):
    import asyncio

    from lightwell_server.contract import Frame
    from lightwell_server.engine.run import Done
    from lightwell_server.runtime import event_queue

    async def read():
        box = event_queue.EventQueue(asyncio.get_running_loop())
        for step in range(5000):
            picture = torch.zeros(1, 3, 2, 2) if step % 10 == 0 else None
            box.put(Frame(step, 5000, image=picture))
        box.put(Done("result"))
        await asyncio.sleep(0.05)
        events = [await box.get()]
        while not isinstance(events[-1], Done):
            events.append(await box.get())
        return events

    *frames, done = asyncio.run(read())
    assert done.result == "result" and len(frames) <= event_queue.MESSAGES
    steps = [frame.step for frame in frames]
    assert steps == sorted(steps) and steps[-1] == 4999
    assert sum(frame.image is not None for frame in frames) == event_queue.PICTURES


def test_pixels_are_counted_from_the_header(server):
    import io

    buffer = io.BytesIO()
    Pil.new("1", (8000, 7000)).save(buffer, "PNG")
    with Client(server.address) as client, pytest.raises(InvalidArgumentError, match="8000 x 7000 pixels"):
        client.explain(buffer.getvalue(), Saliency())
