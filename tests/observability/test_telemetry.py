"""What an operator sees: request ids, log lines, traces at a real collector, metrics of a real scrape."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from lightwell import Client, Occlusion, Saliency
from lightwell.images import to_message
from lightwell.requests import explain_request
from lightwell.v1 import admin_pb2, explainer_pb2_grpc
from lightwell_server.catalog import catalog
from lightwell_server.config import Settings
from lightwell_server.observability import tracing
from lightwell_server.observability.metrics import FAILURES, RARE, GatewayMetrics
from lightwell_server.requests.call import Call, named
from lightwell_server.serving import Serving
from tests.server.test_service import STAR, free_port
from tests.serving import bundled, served

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
NAMES = {
    "lightwell_requests": "counter",
    "lightwell_malformed_requests": "counter",
    "lightwell_requests_in_progress": "gauge",
    "lightwell_request_seconds": "histogram",
    "lightwell_queue_seconds": "histogram",
    "lightwell_codec_seconds": "histogram",
    "lightwell_queue_rows": "gauge",
    "lightwell_jobs": "gauge",
    "lightwell_steps": "counter",
    "lightwell_step_seconds": "histogram",
    "lightwell_step_rows": "histogram",
    "lightwell_device_seconds": "counter",
    "lightwell_device_memory_bytes": "gauge",
    "lightwell_saved_device_seconds": "counter",
    "lightwell_out_of_memory_splits": "counter",
    "lightwell_dropped_jobs": "counter",
    "lightwell_model_loads": "counter",
    "lightwell_cut_requests": "counter",
    "lightwell_credential_reloads": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_open_fds": "gauge",
}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_is_known_stands_at_zero_before_anything_happens(workers):
    """A counter that appears with its first event shows no rise, so that no alert would see the first one."""
    port = free_port()
    with (
        served(bundled(), "--metrics-port", str(port), "--workers", workers),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page,
    ):
        families = list(text_string_to_metric_families(page.read().decode()))
    samples = {(each.name, frozenset(each.labels.items())): each.value for f in families for each in f.samples}

    def value(name, **labels):
        return samples[name, frozenset(labels.items())]

    for number in range(int(workers)):
        for why in ("crashed", "killed"):
            assert value("lightwell_worker_restarts_total", worker=str(number), why=why) == 0
    own = {} if workers == "0" else {"worker": "1"}
    for why in ("gone", "late"):
        assert value("lightwell_dropped_jobs_total", why=why, **own) == 0
    for name in catalog():
        assert value("lightwell_repeated_requests_total", method=name) == 0
        assert value("lightwell_saved_device_seconds_total", method=name, **own) == 0
        assert value("lightwell_waiting_seconds_count", method=name) == 0
    asked = [(method, "", code) for method in (*catalog(), "Explain", "GetStatus") for code in FAILURES]
    asked += [(method, "shapes", code) for method in catalog() for code in RARE]
    for method, model, code in asked:
        assert value("lightwell_requests_total", method=method, model=model, code=code) == 0
    assert value("lightwell_request_seconds_count", method="Explain", model="") == 0
    assert value("lightwell_credential_reloads_total", what="tokens", result="failed") == 0
    assert value("lightwell_malformed_requests_total", why="unknown_rpc") == 0


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self):
        self.spans, self.service = [], None

    def Export(self, request, context):
        for resource in request.resource_spans:
            self.service = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return collector.ExportTraceServiceResponse()


@pytest.fixture(scope="module")
def told():
    """A server with everything switched on was asked, and stopped: its log lines, its spans, its last scrape, and the
    ids that its answers carried."""
    kept, port = Collector(), free_port()
    receiver = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, receiver)
    endpoint = f"http://127.0.0.1:{receiver.add_insecure_port('127.0.0.1:0')}"
    receiver.start()
    command = [sys.executable, "-W", "ignore", "-m", "lightwell_server", "--repository", str(bundled())]
    command += ["--address", "127.0.0.1:0", "--metrics-port", str(port), "--otlp-endpoint", endpoint]
    process = subprocess.Popen(
        [*command, "--slow-seconds", "0.3", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = "127.0.0.1:" + re.match(r".* on port (\d+)", process.stdout.readline())[1]
    with grpc.insecure_channel(address) as channel:
        ids = asked(channel)
    scrape = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    process.terminate()
    lines = [json.loads(line) for line in process.communicate(timeout=60)[1].splitlines()]
    receiver.stop(0)
    assert process.returncode == 0
    return lines, kept, scrape, ids


def asked(channel):
    """A saliency map with a name and a trace, a slow occlusion, a bad request, and bytes that are no message."""
    stub, found = explainer_pb2_grpc.ExplainerServiceStub(channel), []
    image = to_message(STAR)
    given = (("x-request-id", "order-66"), ("traceparent", PARENT))
    _, call = stub.Explain.with_call(explain_request(image, Saliency()), metadata=given)
    found.append(dict(call.trailing_metadata())["x-request-id"])
    _, call = stub.Explain.with_call(explain_request(image, Occlusion(stride=2)))
    found.append(dict(call.trailing_metadata())["x-request-id"])
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(explain_request(b"no image", Saliency()))
    found.append(dict(caught.value.trailing_metadata())["x-request-id"])
    for path, data in (("/lightwell.v1.ExplainerService/Explain", b"\xff\xff"), ("/lightwell.v1.Nothing/At", b"")):
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(path)(data)
    return found


def calls(told):
    return [line for line in told[0] if line["message"] in ("call", "slow call")]


def test_every_answer_carries_its_name(told):
    first, second, third = told[3]
    assert first == "order-66" and re.fullmatch("[0-9a-f]{32}", second) and re.fullmatch("[0-9a-f]{32}", third)


@pytest.mark.parametrize("given", ["", "x" * 129, "two\nlines", "ümlaut"])
def test_improper_names_are_replaced(given):
    name, _ = named([("x-request-id", given)])
    assert re.fullmatch("[0-9a-f]{32}", name)


def test_each_call_has_a_log_line(told):
    first, second, third, last = calls(told)
    assert [line["request_id"] for line in (first, second, third)] == told[3]
    assert (last["code"], last["reason"]) == ("INVALID_ARGUMENT", "NO_MESSAGE")
    assert first["method"] == "saliency" and first["model"] == "shapes"
    assert first["code"] == "OK" and first["rpc"] == "Explain" and first["caller"].startswith("ipv4:127.0.0.1")
    parts = [first[f"{name}_seconds"] for name in ("header", "decode", "wait", "queue", "step", "encode")]
    assert all(part >= 0 for part in parts) and sum(parts) <= first["seconds"]
    assert (third["code"], third["reason"]) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


def test_a_slow_call_is_a_warning(told):
    slow = next(line for line in calls(told) if line["method"] == "occlusion")
    assert slow["seconds"] > 0.3
    for line in calls(told):
        late = line["seconds"] > 0.3
        assert (line["message"], line["level"]) == (("slow call", "WARNING") if late else ("call", "INFO"))


def test_traces_arrive_with_their_parts(told):
    kept = told[1]
    roots = [span for span in kept.spans if span.name == "lightwell.v1.ExplainerService/Explain"]
    assert kept.service == "lightwell" and len(roots) == 4
    root = next(span for span in roots if span.trace_id.hex() == TRACE)
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    parts = [span for span in kept.spans if span.parent_span_id == root.span_id]
    assert [span.name for span in sorted(parts, key=lambda span: span.start_time_unix_nano)] == [
        "header", "decode", "wait", "queue", "step", "encode",
    ]  # fmt: skip
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano for span in parts)
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in parts)
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 300
    attributes = {a.key: a.value.string_value for a in root.attributes}
    assert attributes["lightwell.method"] == "saliency" and attributes["lightwell.request_id"] == "order-66"


def test_failures_are_errors_in_the_trace_and_long_work_shows_its_first_steps(told):
    roots = [span for span in told[1].spans if not span.parent_span_id or span.trace_id.hex() == TRACE]
    assert sum(span.status.code == 2 for span in roots) == 2
    steps = [span for span in told[1].spans if span.name == "step"]
    assert 3 <= len(steps) <= 10  # one of the saliency map, the first few of the occlusion's


def test_metrics_have_their_names_and_types(told):
    families = {family.name: family for family in text_string_to_metric_families(told[2])}
    assert {name: families[name].type for name in NAMES} == NAMES
    assert all(family.documentation.endswith(".") for name, family in families.items() if name.startswith("lightwell"))


def test_labels_stay_bounded(told):
    labels = {
        label for f in text_string_to_metric_families(told[2]) for s in f.samples for label in s.labels
    }  # fmt: skip
    assert labels <= {"method", "model", "code", "device", "le", "state", "why", "what", "cache", "result", "worker"}
    assert "order-66" not in told[2]


def test_what_never_was_a_request_is_counted(told):
    counted = {
        sample.labels["why"]: sample.value
        for family in text_string_to_metric_families(told[2])
        for sample in family.samples
        if sample.name == "lightwell_malformed_requests_total"
    }
    assert counted == {"no_message": 1, "unknown_rpc": 1}


def test_buckets_fit_milliseconds_and_minutes():
    edges = GatewayMetrics().request_seconds.labels("saliency", "x")._upper_bounds
    assert edges[0] <= 0.005 and 60 in edges


def test_a_collector_that_is_silent_keeps_nobody_from_stopping(monkeypatch, caplog):
    monkeypatch.setattr(tracing, "LAST", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        traces = tracing.Tracing(f"http://127.0.0.1:{silent.getsockname()[1]}")
        traces(Call("order-66", "/lightwell.v1.ExplainerService/Explain", ended=time.monotonic(), code="OK"))
        traces.stop()
        assert any(thread.name == "traces" for thread in threading.enumerate()), "it waits for an answer still"
        assert "has not answered within 0.1 seconds; the last traces are lost" in caplog.text


def test_without_a_collector_no_tracing_is_loaded():
    code = "import lightwell_server.__main__, sys; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_model_is_no_label():
    port = free_port()
    with served(bundled(), "--metrics-port", str(port)) as server, Client(server.address) as client:
        for name in ("one", "two"):
            with pytest.raises(Exception, match="no model"):
                client.explain(STAR, Saliency(), model=name)
        scrape = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'lightwell_requests_total{code="NOT_FOUND",method="saliency",model=""} 2.0' in scrape


def test_two_servers_in_one_process_have_figures_of_their_own():
    async def asked(count):
        settings = Settings(repository=bundled(), workers=0, address="127.0.0.1:0", metrics_port=0, settle_seconds=0)
        server, stop = Serving(settings), asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server._port}") as channel:
            ask = explainer_pb2_grpc.ExplainerServiceStub(channel).Explain
            for _ in range(count):
                await patiently(lambda: ask(explain_request(STAR, Saliency(), model="shapes")))
            page = await explainer_pb2_grpc.AdminServiceStub(channel).GetMetrics(admin_pb2.GetMetricsRequest())
        return running, stop, page.text

    async def patiently(call):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.1)

    async def both():
        servers = [await asked(count) for count in (3, 1, 0)]
        for running, stop, _ in servers:
            stop.set()
            await running
        return [page for *_, page in servers]

    def total(page, name, **labels):
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    pages = asyncio.run(both())
    assert [total(page, "lightwell_requests_total", method="saliency", code="OK") for page in pages] == [3, 1, 0]
    assert [total(page, "lightwell_model_loads_total") for page in pages[:2]] == [1, 1]
