"""The server's settings: flags before environment before file before defaults, all told by --help and
--print-config."""

import re
import subprocess
import sys
import time
import tomllib

import grpc
import pytest

from lightwell import Client, Saliency
from lightwell.v1 import explainer_pb2_grpc, models_pb2
from lightwell_server.config import Settings
from tests.server.test_service import STAR, free_port
from tests.serving import bundled, served


def serve(*words, **environment):
    command = [sys.executable, "-W", "ignore", "-m", "lightwell_server", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=_env(environment))


def _env(extra):
    import os

    return {**os.environ, **extra}


def printed(*words, **environment):
    done = serve("--repository", "models", *words, "--print-config", **environment)
    assert done.returncode == 0, done.stderr
    return tomllib.loads(done.stdout)


def test_flags_go_before_the_environment_before_the_file_before_defaults(tmp_path):
    file = tmp_path / "lightwell.toml"
    file.write_text("max_jobs = 1\nmax_rows = 1\nthreads = 1\n")
    found = printed("--config", file, "--max-jobs", "3", LIGHTWELL_MAX_JOBS="2", LIGHTWELL_MAX_ROWS="2")
    assert (found["max_jobs"], found["max_rows"], found["threads"], found["grace_seconds"]) == (3, 2, 1, 30.0)
    assert printed(LIGHTWELL_CONFIG=str(file))["max_jobs"] == 1


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path):
    odd = printed("--address", r'[::1]:5 "\ü', "--tokens", "t.toml", "--no-reflection", "--log-level", "error")
    assert odd["address"] == r'[::1]:5 "\ü' and odd["reflection"] is False
    file = tmp_path / "again.toml"
    file.write_text(serve("--repository", "models", "--max-jobs", "7", "--print-config").stdout)
    assert printed("--config", file) == tomllib.loads(file.read_text())


def test_what_kubernetes_sets_for_a_service_is_told_from_a_mistake():
    done = serve("--repository", "models", LIGHTWELL_METRICS_PORT="tcp://10.0.0.1:9090")
    assert done.returncode and "LIGHTWELL_METRICS_PORT is tcp://10.0.0.1:9090" in done.stderr
    assert "enableServiceLinks: false" in done.stderr and "Traceback" not in done.stderr


def test_a_required_model_that_is_not_there_is_told_with_the_reason(tmp_path):
    (tmp_path / "net" / "1").mkdir(parents=True)
    (tmp_path / "net" / "1" / "model.pt").write_text("no model")
    command = [sys.executable, "-W", "ignore", "-m", "lightwell_server", "--repository", tmp_path, "--workers", "0"]
    command += ["--address", "127.0.0.1:0", "--metrics-port", "0", "--require-models", "net,other"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("lightwell: serving 0 models")
        process.terminate()
        told = [line for line in process.communicate()[1].splitlines() if "not ready" in line]
    assert "the model net of --require-models is refused (net@1: model.pt" in told[0]
    assert "the model other of --require-models is not in the repository" in told[1]


def test_help_tells_every_setting():
    told = serve("--help").stdout
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told and field.description
    assert "--server" not in told and "LIGHTWELL_" in told


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--max-jobs", "0"], "--max-jobs: Input should be greater than 0"),
        (["--threads", "many"], "--threads: Input should be a valid integer"),
        (["--dtype", "int8"], "--dtype: "),
        (["--tls-key", "x"], "tls_certificate and tls_key go together"),
        (["--tls-client-ca", "x"], "tls_client_ca needs tls_certificate"),
        (["--config", "missing.toml"], "there is no file missing.toml"),
        (["--tokens", "missing.toml"], "missing.toml"),
        (["--tls-certificate", "a.pem", "--tls-key", "b.pem"], "No such file"),
        (["--devices", "cuda:99"], "--devices"),
        (["--devices", "toaster"], "--devices"),
        (["--devices", "cuda:0,cuda:1", "--workers", "3"], "a worker owns one device"),
        (["--devices", "cuda:0,cuda:1", "--workers", "0"], "one process uses one device"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings_end_with_one_sentence(words, wrong):
    done = serve("--repository", bundled(), "--address", "127.0.0.1:0", "--metrics-port", "0", *words)
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lightwell serve: ") and wrong in last and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["max_jbos = 3", "max_jobs = ", "max_jobs = 'x'"])
def test_a_wrong_file_ends_with_one_sentence(tmp_path, text):
    file = tmp_path / "lightwell.toml"
    file.write_text(text)
    done = serve("--repository", bundled(), "--config", file)
    assert done.returncode == 1 and done.stderr.startswith("lightwell serve: ") and done.stderr.count("\n") == 1


def test_a_missing_repository_is_told():
    done = serve("--repository", "nowhere", "--address", "127.0.0.1:0", "--metrics-port", "0")
    assert done.returncode == 1 and "--repository: there is no directory nowhere" in done.stderr


def test_a_port_that_is_taken_is_told():
    with served(bundled()) as server:
        done = serve("--repository", bundled(), "--address", server.address, "--metrics-port", "0")
        assert done.returncode == 1 and f"cannot listen on {server.address}" in done.stderr


def test_a_metrics_port_that_is_taken_is_told():
    port = free_port()
    with served(bundled(), "--metrics-port", str(port)):
        done = serve("--repository", bundled(), "--address", "127.0.0.1:0", "--metrics-port", port)
        assert done.returncode == 1 and f"--metrics-port: cannot listen on {port}" in done.stderr


def test_connections_are_renewed_and_no_call_is_lost():
    """A connection older than a second is closed for new calls; a call at work ends in peace, the next one finds a
    new connection."""
    with served(bundled(), "--max-connection-seconds", "1", "--threads", "1") as server:
        with Client(server.address) as client:
            end = time.monotonic() + 5
            while time.monotonic() < end:
                assert client.explain(STAR, Saliency()).target.label == "star"
        with grpc.insecure_channel(server.address) as channel:
            states = []
            channel.subscribe(states.append)
            explainer_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest())
            time.sleep(3)
        assert grpc.ChannelConnectivity.READY in states and states[-1] is not grpc.ChannelConnectivity.READY


def test_reflection_can_be_switched_off():
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with served(bundled(), "--no-reflection") as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_ready_line_names_the_port():
    with served(bundled()) as server:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", server.address) and server.models == 1
