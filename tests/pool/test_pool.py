"""Worker processes behind a gateway: the same answers as from one process, and what operators see and do."""

import asyncio
import io
import os
import shutil
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image as Pil
from prometheus_client.parser import text_string_to_metric_families

from lightwell import AbortedError, Client, GradCam, LightwellError, Occlusion, Pgd, Saliency
from lightwell.requests import explain_request, synthesize_request
from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import estimate_pb2, explain_pb2, explainer_pb2_grpc, synthesize_pb2
from lightwell.v1 import types_pb2 as types
from lightwell_server.config import Settings
from lightwell_server.pool import slot as places
from lightwell_server.pool.pool import Pool
from tests.deadly import SEED
from tests.server.test_service import LONG, PAINTING, STAR, StyleTransfer, free_port
from tests.serving import bundled, served

FLAGS = ("--threads", "1", "--max-request-rows", "5000")
NOISE = np.random.default_rng(0).integers(0, 256, (150, 61, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pool():
    """Two workers; the address, and the port of the metrics."""
    port = free_port()
    with served(bundled(), "--workers", "2", *FLAGS, "--metrics-port", str(port)) as server:
        yield server.address, port


@pytest.fixture(scope="module")
def single():
    with served(bundled(), *FLAGS) as server:
        yield server.address


def stubs(address):
    channel = grpc.insecure_channel(address)
    return explainer_pb2_grpc.ExplainerServiceStub(channel), explainer_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture
def operator(pool):
    return stubs(pool[0])[1]


def jpeg(mode="RGB"):
    buffer = io.BytesIO()
    Pil.fromarray(NOISE).convert(mode).save(
        buffer, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    )
    return buffer.getvalue()


FLOATS = np.random.default_rng(1).random((3, 120, 130), dtype=np.float32)
DRAWN = {"pictures": ("map", "overlay"), "reproducible": True}
EXPLAINED = {
    "a file": explain_request(STAR, Saliency(), **DRAWN),
    "turned by its EXIF, grey, cropped": explain_request(jpeg("L"), GradCam(), **DRAWN),
    "eight bits as a tensor": explain_request(
        NOISE, Saliency(channels=Saliency.REDUCTION_NONE), target="star", **DRAWN
    ),
    "floats that are fitted": explain_request(FLOATS, GradCam(), **DRAWN),
    "floats as they are": explain_request(FLOATS, Saliency(), fit="exact", **DRAWN),
    "doubles as they are": explain_request(FLOATS.astype(np.float64), Saliency(), fit="exact", **DRAWN),
    "many rows": explain_request(STAR, Occlusion(stride=24), target="heart", predictions=3, reproducible=True),
}
EXPLAINED["floats that are fitted"].output.dtype = types.DATA_TYPE_FLOAT16
SYNTHESIZED = {
    "an attack": synthesize_request(
        Pgd(steps=4, stop_early=False), image=jpeg(), seed=3, reproducible=True, previews=2, image_tensor=True
    ),
    "whole pictures": synthesize_request(
        StyleTransfer(styles=[PAINTING], size=64, steps=2), image=NOISE, reproducible=True, predictions=2
    ),
}


def plain(response):
    """A response without what differs from run to run."""
    source = response.provenance
    assert source.attempts == 1 and source.device_seconds > 0 and source.steps > 0
    for field in ("queue_seconds", "device_seconds", "predicted_seconds", "attempts", "worker"):
        source.ClearField(field)
    return response


@pytest.mark.parametrize("request_", EXPLAINED.values(), ids=EXPLAINED)
def test_explanations_are_the_same_to_the_bit_as_from_one_process(pool, single, request_):
    one, many = (plain(stubs(address)[0].Explain(request_)) for address in (single, pool[0]))
    assert one.map.values.data and one == many
    streamed = list(stubs(pool[0])[0].ExplainStream(explain_pb2.ExplainStreamRequest(request=request_)))
    assert plain(streamed[-1].result) == one


@pytest.mark.parametrize("request_", SYNTHESIZED.values(), ids=SYNTHESIZED)
def test_syntheses_are_the_same_to_the_bit_as_from_one_process(pool, single, request_):
    found = []
    for address in (single, pool[0]):
        *progress, last = stubs(address)[0].Synthesize(request_)
        found.append(([event.progress for event in progress], plain(last.result)))
    (steps, one), (_, many) = found
    assert one.png.startswith(b"\x89PNG") and one == many and not one.HasField("pixels")
    assert found[0] == found[1]
    assert sum(bool(step.preview) for step in steps) == request_.output.previews


def test_estimates_are_the_same(pool, single):
    asked = estimate_pb2.EstimateRequest(explain=explain_request(STAR, Occlusion(), pictures=("map",)))
    one, many = (stubs(address)[0].Estimate(asked) for address in (single, pool[0]))
    for told in (one, many):
        told.cost.ClearField("device_seconds")
        told.cost.ClearField("memory_limit_bytes")
    assert one == many and one.explain.output.pictures == [explain_pb2.PICTURE_KIND_MAP]


def test_pictures_come_as_pixels_where_that_is_asked_for(pool):
    request = synthesize_pb2.SynthesizeRequest()
    request.CopyFrom(SYNTHESIZED["an attack"])
    stub = stubs(pool[0])[0]
    drawn = next(event.result for event in stub.Synthesize(request) if event.HasField("result"))
    request.output.pixels = True
    *progress, last = stub.Synthesize(request)
    result = last.result
    assert not result.png and result.resolved.output.pixels
    assert np.array_equal(array(result.pixels), np.asarray(Pil.open(io.BytesIO(drawn.png))))
    for picture, file in zip(result.pictures, drawn.pictures, strict=True):
        assert not picture.png and picture.name == file.name
        assert np.array_equal(array(picture.pixels), np.asarray(Pil.open(io.BytesIO(file.png))))
    previews = [event.progress for event in progress if event.progress.HasField("preview_pixels")]
    assert len(previews) == 2 and not any(step.preview for step in previews)


def array(pixels):
    assert pixels.dtype == types.DATA_TYPE_UINT8
    return np.frombuffer(pixels.data, np.uint8).reshape(tuple(pixels.shape)).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (explain_request(b"no image", Saliency()), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "image"),
        (explain_request(STAR, Occlusion(window=0)), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "occlusion.window"),
        (explain_request(STAR, Saliency(), model="shaeps"), "NOT_FOUND", "MODEL_NOT_FOUND", None),
        (explain_request(STAR, Saliency(), model="shapes@9"), "NOT_FOUND", "VERSION_NOT_FOUND", None),
        (explain_request(STAR, Occlusion(stride=1, window=1)), "INVALID_ARGUMENT", "TOO_MANY_ROWS", None),
    ],
    ids=["image", "parameter", "model", "version", "rows"],
)
def test_failures_are_told_as_from_one_process(pool, single, request_, code, reason, field):
    told = []
    for address in (pool[0], single):
        with pytest.raises(grpc.RpcError) as caught:
            stubs(address)[0].Explain(request_)
        assert caught.value.code().name == code
        told.append(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    assert told[0] == told[1] and reason.encode() in told[0]
    assert field is None or field.encode() in told[0]


def test_the_status_tells_of_workers_and_models(operator):
    told = operator.GetStatus(admin.GetStatusRequest())
    assert [worker.number for worker in told.workers] == [0, 1] and len({worker.pid for worker in told.workers}) == 2
    assert {worker.state for worker in told.workers} == {admin.WORKER_STATE_READY}
    assert (told.waiting, told.running, told.stopping) == (0, 0, False)
    assert [(model.name, model.version) for model in told.models] == [("shapes", "1")]


def test_one_process_has_a_status_too(single):
    (worker,) = stubs(single)[1].GetStatus(admin.GetStatusRequest()).workers
    assert worker.state == admin.WORKER_STATE_READY and worker.pid > 0


def test_jobs_are_listed_and_one_is_stopped(pool, operator):
    refused = []
    with Client(pool[0]) as client:
        stream = client.synthesize(LONG, image=STAR)
        way = iter(stream)
        next(way)

        def read():
            with pytest.raises(LightwellError) as caught:
                for _ in way:
                    pass
            refused.append(caught.value)

        reading = threading.Thread(target=read)
        reading.start()
        (job,) = operator.ListJobs(admin.ListJobsRequest()).jobs
        assert (job.method, job.model, job.version) == ("style_transfer", "shapes", "1")
        assert job.state == admin.JOB_STATE_RUNNING and job.worker in (0, 1) and job.attempts == 1
        assert 0 < job.step < job.steps == 10_000 and job.caller.startswith("ipv4:127.0.0.1")
        time.sleep(1)
        (later,) = operator.ListJobs(admin.ListJobsRequest()).jobs
        assert later.device_seconds > 0 and later.step > job.step
        operator.StopJob(admin.StopJobRequest(number=job.number))
        reading.join(10)
    assert (refused[0].code, refused[0].reason) == (grpc.StatusCode.ABORTED, "STOPPED")
    assert not operator.ListJobs(admin.ListJobsRequest()).jobs
    with pytest.raises(grpc.RpcError) as caught:
        operator.StopJob(admin.StopJobRequest(number=job.number))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_an_estimate_is_a_job_that_can_be_stopped():
    with served(bundled(), "--workers", "1", *FLAGS, "--worker-health-seconds", "60") as server:
        explainer, operator = stubs(server.address)
        pid = operator.GetStatus(admin.GetStatusRequest()).workers[0].pid
        os.kill(pid, signal.SIGSTOP)
        asked = explainer.Estimate.future(estimate_pb2.EstimateRequest(explain=explain_request(STAR, Saliency())))
        while not (jobs := operator.ListJobs(admin.ListJobsRequest()).jobs):
            time.sleep(0.01)
        operator.StopJob(admin.StopJobRequest(number=jobs[0].number))
        assert asked.exception(10).code() is grpc.StatusCode.ABORTED
        os.kill(pid, signal.SIGCONT)


def test_the_metrics_of_all_processes_are_one_page(pool, operator):
    with Client(pool[0]) as client:
        for _ in range(4):
            client.explain(STAR, Saliency())
    page = urllib.request.urlopen(f"http://127.0.0.1:{pool[1]}/metrics").read().decode()
    for text in (page, operator.GetMetrics(admin.GetMetricsRequest()).text):
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        steps = {s.labels["worker"]: s.value for s in samples if s.name == "lightwell_steps_total"}
        assert set(steps) == {"0", "1"} and sum(steps.values()) > 4
        assert {s.labels.get("worker") for s in samples if s.name == "process_open_fds"} == {None, "0", "1"}
        assert {s.labels["state"]: s.value for s in samples if s.name == "lightwell_workers"}["ready"] == 2
        told = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert "# TYPE lightwell_steps_total counter" in told and len(told) == len(set(told))


def test_predictions_come_with_the_answer(pool):
    with Client(pool[0]) as client:
        method = Occlusion(window=20, stride=20)
        made = [client.explain(STAR, method).provenance for _ in range(6)]
    assert not made[0].HasField("predicted_seconds")
    assert all(0 < source.predicted_seconds < 10 for source in made[1:])


def test_only_administrators_administer(tmp_path):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[user]\ntoken = "0123456789abcdef"\n[boss]\ntoken = "fedcba9876543210"\nrights = ["admin"]\n')
    with served(bundled(), "--tokens", str(tokens)) as server:
        stub = stubs(server.address)[1]
        calls = (
            (stub.GetStatus, admin.GetStatusRequest()),
            (stub.ListJobs, admin.ListJobsRequest()),
            (stub.StopJob, admin.StopJobRequest(number=1)),
            (stub.LoadModel, admin.LoadModelRequest(model="shapes")),
            (stub.UnloadModel, admin.UnloadModelRequest(model="shapes", version="1")),
            (stub.GetMetrics, admin.GetMetricsRequest()),
        )
        for call, request in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call(request, metadata=[("authorization", "Bearer 0123456789abcdef")])
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert stub.GetStatus(admin.GetStatusRequest(), metadata=[("authorization", "Bearer fedcba9876543210")]).models


def test_models_are_loaded_and_unloaded_by_call(pool, operator):
    loaded = operator.LoadModel(admin.LoadModelRequest(model="shapes")).model
    assert loaded.summary.version == "1" and loaded.layers
    for request in (admin.UnloadModelRequest(model="shapes"), admin.UnloadModelRequest(version="1")):
        with pytest.raises(grpc.RpcError, match="name the model and the version"):
            operator.UnloadModel(request)
    operator.UnloadModel(admin.UnloadModelRequest(model="shapes", version="1"))
    with Client(pool[0]) as client, pytest.raises(LightwellError, match="not loaded"):
        client.explain(STAR, Saliency())
    operator.LoadModel(admin.LoadModelRequest(model="shapes"))
    with Client(pool[0]) as client:
        assert client.explain(STAR, Saliency()).target.label == "star"


def test_a_new_worker_is_told_what_the_first_was_whatever_the_file_of_settings_says_now(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("max_rows = 16\n")
    with served(bundled(), "--workers", "1", *FLAGS, "--config", str(file)) as server:
        operator = stubs(server.address)[1]
        file.write_text("max_rows = [")  # to be read when the server is started anew
        os.kill(operator.GetStatus(admin.GetStatusRequest()).workers[0].pid, signal.SIGKILL)
        with Client(server.address, retries=0, timeout=20) as client:
            client.explain(STAR, Saliency())


def test_a_new_worker_loads_a_version_once_and_says_so_if_it_cannot(tmp_path):
    repository = shutil.copytree(bundled(), tmp_path / "repository")
    with served(repository, "--workers", "1", *FLAGS) as server, Client(server.address, retries=0) as client:
        operator = stubs(server.address)[1]
        text = operator.GetMetrics(admin.GetMetricsRequest()).text
        assert 'lightwell_model_loads_total{state="ready",worker="0"} 1.0' in text
        (repository / "shapes" / "1" / "model.pt").write_bytes(b"no archive")
        client.explain(STAR, Saliency())  # what was loaded before stays
        os.kill(operator.GetStatus(admin.GetStatusRequest()).workers[0].pid, signal.SIGKILL)
        with pytest.raises(LightwellError, match="shapes@1 cannot be asked now: no worker could load it") as caught:
            client.explain(STAR, Saliency())
        assert caught.value.reason == "NO_WORKER"
        with grpc.insecure_channel(server.address) as channel:
            check, asked = health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest(service="shapes")
            deadline = time.monotonic() + 10
            while check(asked).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_new_worker_keeps_nothing_that_is_let_go_of_while_it_loads(tmp_path):
    repository = shutil.copytree(bundled(), tmp_path / "repository")
    shutil.copytree(repository / "shapes" / "1", repository / "shapes" / "2")

    async def story():
        pool = Pool(Settings(repository=repository, threads=1))
        (slot,) = pool._slots
        running = asyncio.create_task(pool.supervise())
        async with asyncio.timeout(60):
            for version in "12":
                await pool.load("shapes", version)
            os.kill(slot.pid, signal.SIGKILL)
            while ("shapes", "1") not in slot.models or slot.ready:
                await asyncio.sleep(0.001)
            await pool.unload("shapes", "2")
            while not slot.ready:
                await asyncio.sleep(0.01)
        assert slot.models == {("shapes", "1")}
        running.cancel()
        await asyncio.wait([running])
        await pool.stop()

    asyncio.run(story())


def test_a_request_that_ends_workers_before_its_first_step_is_refused_and_its_neighbours_are_answered():
    with (
        served(bundled(), "--workers", "1", *FLAGS, module="tests.deadly") as server,
        Client(server.address, retries=0, timeout=60) as client,
        ThreadPoolExecutor() as threads,
    ):
        poison = threads.submit(client.explain, STAR, Saliency(), seed=SEED)
        others = [threads.submit(client.explain, STAR, Occlusion(stride=4), target="star") for _ in range(3)]
        with pytest.raises(AbortedError) as caught:
            poison.result()
        assert caught.value.reason == "POISONED"
        assert all(other.result().target.label == "star" for other in others)


def test_the_pause_before_a_new_worker_grows_only_while_they_end_soon(monkeypatch):
    monkeypatch.setattr(places, "LONGEST_PAUSE", 1.0)
    pauses = []

    async def story():
        pool = Pool(Settings(repository=bundled(), threads=1))
        (slot,) = pool._slots
        running = asyncio.create_task(pool.supervise())
        async with asyncio.timeout(60):
            for life in (0.0, 0.0, 0.0, 1.2):  # seconds for which a worker answers nothing
                while not slot.ready:
                    await asyncio.sleep(0.01)
                if not life:
                    slot._began = time.monotonic()  # however long it took to start on a busy machine
                await asyncio.sleep(life)
                os.kill(slot.pid, signal.SIGKILL)
                while slot.pid:
                    await asyncio.sleep(0.001)
                ended = time.monotonic()
                while not slot.pid:
                    await asyncio.sleep(0.001)
                pauses.append(slot._began - ended)
        running.cancel()
        await asyncio.wait([running])
        await pool.stop()

    asyncio.run(story())
    assert pauses[0] < pauses[1] < pauses[2] > 0.7 and pauses[3] < 0.2


def test_a_worker_that_cannot_be_started_is_tried_again_until_it_can():
    async def story():
        pool = Pool(Settings(repository=bundled(), threads=1))
        (slot,) = pool._slots
        running = asyncio.create_task(pool.supervise())
        async with asyncio.timeout(60):
            while not slot.ready:
                await asyncio.sleep(0.01)
            shutil.rmtree(pool._folder)
            pool._folder.write_text("no folder can be made here")
            os.kill(slot.pid, signal.SIGKILL)
            while "could not be started" not in slot.last_end:
                await asyncio.sleep(0.01)
            pool._folder.unlink()
            while not slot.ready:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        await pool.stop()

    asyncio.run(story())
