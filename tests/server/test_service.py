"""The service as its callers meet it: real servers in processes of their own, real clients, real sockets."""

import asyncio
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client.parser import text_string_to_metric_families

import lightwell
from lightwell import (
    AsyncClient,
    Client,
    DeadlineError,
    GradCam,
    InvalidArgumentError,
    LightwellError,
    NotApplicableError,
    NotFoundError,
    Occlusion,
    OverloadedError,
    Pgd,
    Saliency,
    Style,
    StyleTransfer,
    UnavailableError,
)
from lightwell.images import to_message
from lightwell.v1 import models_pb2
from lightwell.v1 import types_pb2 as types
from tests.commands import run
from tests.serving import bundled, served

SAMPLES = Path(lightwell.__file__).parent / "samples"
STAR, HEART = SAMPLES / "star.png", SAMPLES / "heart.png"
PAINTING = Style(image=to_message(SAMPLES / "painting.png"))
LONG = StyleTransfer(styles=[PAINTING], size=128, steps=10_000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The bundled model, and beside it one that cannot be lifted."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(bundled() / "shapes", root / "shapes")
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.pt").write_bytes(b"no model")
    return root


@pytest.fixture(scope="module")
def metrics_port():
    return free_port()


@pytest.fixture(scope="module")
def server(repository, metrics_port):
    with served(repository, "--metrics-port", str(metrics_port), "--threads", "1") as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture
def scrape(metrics_port):
    """Reads one sample of the server's metrics."""

    def read(name, **labels):
        text = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics").read().decode()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    return read


@pytest.mark.parametrize("method", [Saliency(), GradCam(), Occlusion()], ids=lambda m: type(m).__name__)
def test_explanations(client, method):
    seen = client.explain(STAR, method, model="shapes")
    assert seen.predictions[0].label == "star" and seen.target.label == "star"
    assert seen.map.shape == (96, 96) and seen.map.dtype == np.float32
    assert seen.target.probability > 0.8 and len(seen.predictions) == 5
    assert seen.overlay().size == (192, 192) and seen._repr_png_().startswith(b"\x89PNG")
    assert seen.provenance.model == "shapes" and len(seen.provenance.digest) == 64


def test_the_map_lies_on_the_object(client):
    seen = client.explain(STAR, GradCam(), target="star")
    row, column = np.unravel_index(seen.map.argmax(), seen.map.shape)
    assert 10 < row < 75 and 30 < column < 85  # the star fills the upper right of the picture


def test_an_attack_fools_the_model_with_the_very_png(client):
    result = client.synthesize(Pgd(), image=STAR, seed=1).result()
    assert result.succeeded and result.before[0].label == "star" != result.after[0].label
    again = client.explain(result.message.png, GradCam(), fit="exact")
    assert again.predictions[0].class_index == result.after[0].class_index
    assert again.predictions[0].score == pytest.approx(result.after[0].score, rel=1e-4)
    assert {"difference", "difference_x10"} == set(result.pictures)
    assert result.measures["linf"] <= 8 / 255 + 1e-6


def test_a_style_transfer_streams_progress_and_previews(client):
    method = StyleTransfer(styles=[PAINTING], size=64, steps=12)
    frames = list(stream := client.synthesize(method, image=SAMPLES / "scene.png", previews=3))
    assert [frame.step for frame in frames] == list(range(1, 13))
    assert [frame.step for frame in frames if frame.image is not None] == [4, 8, 12]
    assert frames[-1].objective < frames[0].objective
    assert stream.result().image.size == (64, 64) and stream.result().succeeded is None


def test_pictures_are_drawn_on_request(client):
    seen = client.explain(HEART, GradCam(), pictures=("map", "overlay"))
    assert [picture.name for picture in seen.message.pictures] == ["map", "overlay"]
    assert not client.explain(HEART, GradCam()).message.pictures


def test_explain_all_keeps_the_order(client):
    paths = [STAR, HEART] * 10
    seen = [result.predictions[0].label for result in client.explain_all(paths, GradCam(), concurrency=6)]
    assert seen == ["star", "heart"] * 10


def test_the_asynchronous_client_has_the_same_calls(server):
    async def calls():
        async with AsyncClient(server.address) as client:
            seen = await client.explain(STAR, Saliency())
            stream = client.synthesize(Pgd(steps=2, stop_early=False), image=STAR)
            steps = [frame.step async for frame in stream]
            result = await stream.result()
            labels = [r.target.label async for r in client.explain_all([HEART, STAR], GradCam(), concurrency=1)]
            models = await client.models()
            with pytest.raises(NotFoundError):
                await client.model("nothing")
            return seen, steps, result, labels, models

    seen, steps, result, labels, models = asyncio.run(calls())
    assert seen.target.label == "star" and steps == [1, 2] and labels == ["heart", "star"]
    assert result.image.size == (96, 96)
    assert {model.name for model in models} == {"shapes", "broken"}


def test_models_are_listed_the_refused_with_their_reason(client):
    states = {model.name: model for model in client.models()}
    assert states["shapes"].state == models_pb2.MODEL_STATE_READY
    assert (
        states["broken"].state == models_pb2.MODEL_STATE_REFUSED and "no TorchScript archive" in states["broken"].reason
    )
    with pytest.raises(LightwellError, match="was refused"):
        client.explain(STAR, Saliency(), model="broken")


def test_a_model_tells_its_layers_and_which_methods_apply(client):
    model = client.model("shapes")
    layers = {layer.name: (layer.type, tuple(layer.shape)) for layer in model.layers}
    assert layers["features.18"] == ("Conv2d", (96, 12, 12))
    assert all(method.applies for method in model.methods) and model.any_size and model.batches
    assert next(m for m in model.methods if m.method == "grad_cam").default_layers == ["features"]
    assert len(model.card.labels) == 15


def test_a_method_of_the_other_call_is_refused_before_it_is_sent(client):
    with pytest.raises(TypeError, match="it takes Saliency"):
        client.explain(STAR, Pgd(), model="shapes")


def test_a_deadline_stops_the_steps(server, client, scrape):
    with pytest.raises(DeadlineError):
        Client(server.address, timeout=0.5).synthesize(LONG, image=STAR, model="shapes").result()
    assert_idle(scrape)
    with pytest.raises(DeadlineError):
        Client(server.address, timeout=0.001).explain(STAR, Occlusion(stride=1), model="shapes")
    assert_idle(scrape)


def test_cancelling_stops_the_steps(client, scrape):
    for frame in (stream := client.synthesize(LONG, image=STAR, model="shapes")):
        if frame.step == 3:
            stream.cancel()
            break
    assert_idle(scrape)
    with pytest.raises(LightwellError, match="ancelled"):
        stream.result()


def assert_idle(scrape):
    """No request is in progress after a moment, and no step is run any more."""
    time.sleep(0.5)
    steps = scrape("lightwell_steps_total")
    time.sleep(0.3)
    assert scrape("lightwell_steps_total") == steps
    assert scrape("lightwell_requests_in_progress") == 0


def test_metrics_count_requests_and_steps(client, scrape):
    before = {c: scrape("lightwell_requests_total", method="grad_cam", code=c) for c in ("OK", "INVALID_ARGUMENT")}
    steps = scrape("lightwell_steps_total")
    client.explain(STAR, GradCam(), model="shapes")
    with pytest.raises(InvalidArgumentError):
        client.explain(STAR, GradCam(layer="no"), model="shapes")
    for code, count in before.items():
        assert scrape("lightwell_requests_total", method="grad_cam", code=code) == count + 1
    assert scrape("lightwell_steps_total") == steps + 1
    assert scrape("lightwell_request_seconds_count", method="grad_cam") >= 2
    assert scrape("lightwell_device_seconds_total", method="grad_cam") > 0
    assert scrape("lightwell_model_loads_total", state="refused") == 1


def test_health_knows_the_process_the_services_and_each_model(server):
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.address))
    for name in ("", "lightwell.v1.ExplainerService", "lightwell.v1.ModelService", "shapes"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    broken = stub.Check(health_pb2.HealthCheckRequest(service="broken"))
    assert broken.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_server_is_ready_when_the_models_that_it_must_have_answer(tmp_path):
    """A model that appears later makes it ready, and one that goes takes that back; liveness is not concerned."""
    shutil.copytree(bundled() / "shapes", tmp_path / "shapes")
    with served(tmp_path, "--require-models", "shapes, net") as server:
        health = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.address))

        def state(service):
            return health.Check(health_pb2.HealthCheckRequest(service=service)).status

        def becomes(wanted):
            deadline = time.monotonic() + 30
            while state("lightwell.v1.ExplainerService") != wanted:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert state("") == state("shapes") == serving and state("lightwell.v1.ExplainerService") == not_serving
        assert run(server.address, "status", "--health") == (1, "", "")
        shutil.copytree(tmp_path / "shapes", tmp_path / "net")
        becomes(serving)
        assert run(server.address, "status", "--health") == (0, "", "")
        shutil.rmtree(tmp_path / "shapes")
        becomes(not_serving)
        assert state("") == serving


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services(server, version):
    """Tools ask for v1 first; a server without it counts each try as a malformed call."""
    name = f"grpc.reflection.{version}.ServerReflection"
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="lightwell.v1.Saliency"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
    ]
    with grpc.insecure_channel(server.address) as channel:
        ask = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed, method, own = ask(iter(questions))
    names = {service.name for service in listed.list_services_response.service}
    assert {"lightwell.v1.ExplainerService", "lightwell.v1.ModelService", "grpc.health.v1.Health", name} <= names
    assert method.file_descriptor_response.file_descriptor_proto
    described = [FileDescriptorProto.FromString(f) for f in own.file_descriptor_response.file_descriptor_proto]
    assert [file.package for file in described] == [f"grpc.reflection.{version}"]


@pytest.mark.parametrize(("asks", "reason"), [("another", "QUEUE_FULL"), ("the same", "TOO_MANY_JOBS")])
def test_a_full_queue_says_when_to_come_back(repository, tmp_path, asks, reason):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[another]\ntoken = "a-token-of-another-one"\n["the same"]\ntoken = "a-token-of-the-same-one"\n')
    with (
        served(repository, "--max-jobs", "1", "--tokens", str(tokens)) as server,
        Client(server.address, token="a-token-of-the-same-one") as first,
        Client(server.address, token=f"a-token-of-{asks.replace(' ', '-')}-one") as client,
    ):
        stream = iter(first.synthesize(LONG, image=STAR, model="shapes"))
        next(stream)
        with pytest.raises(OverloadedError) as caught:
            client.explain(STAR, Saliency(), model="shapes")
        assert caught.value.reason == reason and caught.value.retry_seconds > 0
        stream.close()


def test_sigterm_finishes_what_is_accepted_and_refuses_the_rest(repository):
    slow = ("--settle-seconds", "0.5", "--grace-seconds", "85")  # a busy machine may need more than the default
    with served(repository, *slow) as server, Client(server.address, timeout=90) as client:
        watch = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.address)).Watch(health_pb2.HealthCheckRequest())
        states = [next(watch).status]
        stream = client.synthesize(StyleTransfer(styles=[PAINTING], size=96, steps=150), image=STAR, model="shapes")
        frames = iter(stream)
        next(frames)
        server.process.send_signal(signal.SIGTERM)
        states.append(next(watch).status)
        assert sum(1 for _ in frames) == 149 and stream.result().image.size == (96, 96)
        assert server.process.wait(20) == 0
        assert states == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
        with pytest.raises(UnavailableError):
            client.explain(STAR, Saliency(), model="shapes")


def test_a_second_signal_stops_at_once(repository):
    with served(repository) as server, Client(server.address, timeout=30) as client:
        frames = iter(client.synthesize(LONG, image=STAR, model="shapes"))
        next(frames)
        threading.Timer(0.5, server.process.send_signal, (signal.SIGTERM,)).start()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) != 0
        with pytest.raises(LightwellError):
            list(frames)


def test_logs_are_json_lines(repository, tmp_path):
    import json
    import subprocess
    import sys

    command = [sys.executable, "-W", "ignore", "-m", "lightwell_server", "--repository", str(repository)]
    with subprocess.Popen(
        [*command, "--address", "127.0.0.1:0", "--metrics-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert re.match(r"lightwell: serving 1 models on port \d+", process.stdout.readline())
        process.terminate()
        lines = [json.loads(line) for line in process.communicate(timeout=30)[1].splitlines()]
    assert process.returncode == 0
    assert any("broken" in line["message"] and line["level"] == "WARNING" for line in lines)


def test_a_method_that_does_not_apply_says_why(tmp_path, server):
    """A model without any layer that has height and width."""
    import torch

    from tests.nets import Linear, export, seeded

    directory = tmp_path / "flat" / "1"
    directory.mkdir(parents=True)
    export(seeded(Linear), "scripted", directory, torch.rand(2, 3, 16, 16)).rename(directory / "model.pt")
    (directory / "card.toml").write_text("[input]\nsize = [16, 16]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    with served(tmp_path) as flat, Client(flat.address) as client:
        with pytest.raises(NotApplicableError, match="no layer with height and width") as caught:
            client.explain(STAR, GradCam())
        assert caught.value.reason == "METHOD_NOT_APPLICABLE"
        support = {method.method: method for method in client.model().methods}
        assert not support["grad_cam"].applies and support["saliency"].applies
        assert client.explain(STAR, Saliency()).map.shape == (16, 16)


def test_asking_again_keeps_the_fit(client):
    seen = client.explain(np.zeros((64, 80, 3), np.uint8), Saliency(), fit="exact", model="shapes")
    assert seen.message.resolved.image.fit == types.FIT_EXACT and not seen.message.resolved.image.encoded


def test_a_neuron_has_a_place_at_the_cards_size_only(client):
    place = types.Neuron(layer="features.2", row=90, column=90)
    assert client.explain(STAR, Saliency(), target=place, model="shapes").map.any()
    with pytest.raises(InvalidArgumentError, match="card's size"):
        client.explain(np.zeros((64, 64, 3), np.uint8), Saliency(), target=place, fit="exact", model="shapes")


def test_a_whole_picture_is_predicted_as_the_model_would_see_it(client):
    method = StyleTransfer(styles=[PAINTING], size=64, steps=1)
    before = client.synthesize(method, image=STAR, predictions=1, model="shapes").result().before
    assert before[0].label == "star"


@pytest.mark.parametrize("target", [types.Channel(layer="features.2", channel=1), types.Neuron(layer="features.2")])
def test_predictions_leave_the_value_of_a_neuron_alone(client, target):
    alone = client.explain(STAR, Saliency(), target=target, model="shapes").message.target
    seen = client.explain(STAR, Saliency(), target=target, predictions=3, model="shapes")
    assert seen.message.target.score == pytest.approx(alone.score, rel=1e-4) and len(seen.predictions) == 3


def test_a_server_that_has_ended_is_not_waited_for_by_what_outlives_it(tmp_path):
    with served(tmp_path, module="tests.outlived") as running:
        other = running.models
    os.kill(other, signal.SIGKILL)  # it is there still, or this raises
    assert running.exit_code == -signal.SIGTERM
