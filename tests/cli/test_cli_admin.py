"""What an operator sees and does on the command line: workers, queue, jobs and models of real servers."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from rich.console import Console

import lightwell
from lightwell import AbortedError, Client, Style, StyleTransfer
from lightwell.cli import formatting_admin
from lightwell.images import to_message
from lightwell.v1 import admin_pb2, explainer_pb2_grpc, models_pb2
from tests.commands import run, sentence, told
from tests.guarded import LOOKER, TOKEN, guarded
from tests.serving import bundled, served
from tests.terminals import on_terminal

SAMPLES = Path(lightwell.__file__).parent / "samples"
STAR = SAMPLES / "star.png"
LONG = StyleTransfer(styles=[Style(image=to_message(SAMPLES / "painting.png"))], size=96, steps=10_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two workers; the bundled model in two versions, of which the older has an alias."""
    root = tmp_path_factory.mktemp("repository")
    for version in "12":
        shutil.copytree(bundled() / "shapes" / "1", root / "shapes" / version)
    (root / "aliases.toml").write_text('[shapes]\nstable = "1"\n')
    with served(root, "--threads", "1", "--workers", "2") as running:
        yield running
    assert running.exit_code == 0


@pytest.fixture
def asked(server):
    """Runs a command against the server; gives exit code, standard output and standard error."""
    return lambda *words, **more: run(server.address, *words, **more)


@pytest.fixture
def at_work(server):
    """A style transfer that would take minutes, at its first step or later."""
    with Client(server.address) as client:
        stream = client.synthesize(LONG, image=STAR, model="shapes")
        progress = iter(stream)
        assert next(progress).steps == 10_000
        yield progress
        stream.cancel()


def soon(look, seconds=60):
    """What `look` gives as soon as that is true."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.1)
    return seen


def workers(asked):
    [answer] = told(asked("status", "--json"))
    return answer["status"]["workers"]


def command(server, *words):
    return [sys.executable, "-c", "from lightwell.cli import app; app()", *words, "--server", server.address]


def test_status_tells_workers_queue_and_models(asked):
    soon(lambda: {worker["state"] for worker in workers(asked)} == {"ready"})
    [answer] = told(asked("status", "--json"))
    assert answer["models"] == {"shapes": {"health": "serving", "versions": ["1", "2"]}} and "reason" not in answer
    status = answer["status"]
    assert [worker["number"] for worker in status["workers"]] == [0, 1]
    assert len({worker["pid"] for worker in status["workers"]}) == 2 and not status["stopping"]
    for worker in status["workers"]:
        os.kill(worker["pid"], 0)  # raises if there is no such process
    assert [(model["version"], model["state"]) for model in status["models"]] == [("1", "ready"), ("2", "ready")]
    out = asked("status", columns=80)[1]
    for worker in workers(asked):
        words = next(line.split() for line in out.splitlines() if str(worker["pid"]) in line)
        assert words[:4] == [str(worker["number"]), "ready", str(worker["pid"]), worker["device"]]
    assert re.search(r"^shapes +1 +ready +serving +stable *\nshapes +2 +ready +serving *$", out, re.MULTILINE)
    assert status["aliases"] == {"shapes@stable": "1"} and "0 jobs running, 0 waiting" in out


def test_a_worker_that_ended_is_told_with_its_end(asked):
    first = workers(asked)[1]
    os.kill(first["pid"], signal.SIGKILL)
    soon(lambda: workers(asked)[1]["restarts"] == first["restarts"] + 1 and workers(asked)[1]["state"] == "ready")
    now = workers(asked)[1]
    assert now["pid"] != first["pid"] and now["last_end"]
    assert f"worker 1's last end: {now['last_end']}\n" in asked("status")[1]


def test_a_job_is_listed_and_stopped(asked, at_work):
    [job] = soon(lambda: [job for job in told(asked("jobs", "--json")) if job["step"] > 0])
    assert (job["method"], job["model"], job["version"], job["state"]) == ("style_transfer", "shapes", "2", "running")
    assert job["worker"] in (0, 1) and job["steps"] == 10_000 and job["seconds"] > 0 and job["attempts"] == 1
    assert told(asked("status", "--json"))[0]["status"]["running"] == 1
    assert "1 job running, 0 waiting" in asked("status")[1]
    out = asked("jobs")[1]
    assert re.search(rf"^{job['number']} +worker {job['worker']} .*style_transfer of shapes@2, step", out, re.MULTILINE)
    assert job["request_id"] in out
    assert asked("jobs", "stop", job["number"])[:2] == (0, f"job {job['number']} is stopped\n")
    with pytest.raises(AbortedError) as caught:
        list(at_work)
    assert caught.value.reason == "STOPPED" and caught.value.request_id == job["request_id"]
    assert soon(lambda: asked("jobs")[1] == "no jobs\n") and told(asked("jobs", "--json")) == []
    assert str(job["number"]) in sentence(asked("jobs", "stop", job["number"]), 1)


def test_options_before_stop_would_be_lost_and_are_refused(asked):
    for option in (("--server", "127.0.0.1:1"), ("--json",)):
        assert "behind `" in sentence(asked("jobs", *option, "stop", 7), 2)
    assert "number" in sentence(asked("jobs", "stop"), 2)


def test_models_are_unloaded_and_loaded(asked):
    def states():
        return [model["state"] for model in told(asked("models", "list", "--json"))]

    assert asked("models", "unload", "shapes", "2")[:2] == (0, "shapes version 2 takes no further requests\n")
    assert states() == ["ready", "unloaded"]
    assert re.search(r"^shapes +2 +unloaded +serving *$", asked("status")[1], re.MULTILINE)
    code, out, error = asked("models", "load", "shapes")
    assert (code, error) == (0, "") and re.match(r"shapes version 2 answers: \d+ layers\n", out)
    assert states() == ["ready", "ready"]
    assert "no shape@" in sentence(asked("models", "load", "shape"), 1)
    assert "9" in sentence(asked("models", "load", "shapes", "9"), 1)
    assert "9" in sentence(asked("models", "unload", "shapes", "9"), 1)
    assert "version" in sentence(asked("models", "unload", "shapes"), 2)


def test_status_is_shown_anew_on_a_terminal_until_it_is_interrupted(server):
    line = r"(?s)(is reachable and holds 1 model.*?){3}"
    code, lines = on_terminal(command(server, "status", "--live", "--every", "0.2"), interrupt_at=line)
    assert code == 0 and not [line for line in lines if "interrupted" in line]
    assert sum(line.startswith("worker  state") for line in lines) >= 2


@pytest.mark.parametrize(
    ("words", "first"), [([], "{} is reachable"), (["--json"], '{{"server": "{}", "reachable": true')]
)
def test_status_is_printed_anew_where_nobody_looks(server, words, first):
    going = command(server, "status", "--live", "--every", "0.2", *words)
    with subprocess.Popen(going, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        shown = (line for line in process.stdout if line.startswith(first.format(server.address)))
        assert len(list(islice(shown, 3))) == 3
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    with guarded(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def test_without_the_right_to_administer_the_models_are_told_and_why_not_the_rest(guard, monkeypatch):
    shown = ("--ca", guard.ca, "--cert", guard.certificate, "--key", guard.key)
    monkeypatch.setenv("LIGHTWELL_TOKEN", TOKEN)
    out = run(guard.address, "status", *shown)[1]
    assert "holds 1 model\n" in out and "does not tell its workers and queue: team has no right to admin" in out
    assert re.search(r"^shapes +1 +ready +serving", out, re.MULTILINE)
    [answer] = told(run(guard.address, "status", "--json", *shown))
    assert answer["status"] is None and answer["models"]["shapes"]["versions"] == ["1"] and "admin" in answer["reason"]
    for words in (("jobs",), ("jobs", "stop", 1), ("models", "load", "shapes"), ("models", "unload", "shapes", "1")):
        assert "no right to admin" in sentence(run(guard.address, *words, *shown), 1)
    monkeypatch.setenv("LIGHTWELL_TOKEN", LOOKER)  # may administer, and nothing else
    [answer] = told(run(guard.address, "status", "--json", *shown))
    assert answer["status"]["workers"] and answer["models"]["shapes"]["health"] == "serving"
    assert run(guard.address, "jobs", *shown)[:2] == (0, "no jobs\n")


class Listing(explainer_pb2_grpc.ModelServiceServicer):
    def ListModels(self, request, context):
        ready = models_pb2.MODEL_STATE_READY
        return models_pb2.ListModelsResponse(models=[models_pb2.ModelSummary(name="old", version="1", state=ready)])


@contextmanager
def older():
    """A server from before there were workers."""
    server = grpc.server(ThreadPoolExecutor(2))
    explainer_pb2_grpc.add_ModelServiceServicer_to_server(Listing(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_an_older_server_tells_its_models():
    with older() as address:
        [answer] = told(run(address, "status", "--json"))
        assert answer["status"] is None and answer["models"] == {"old": {"health": "unknown", "versions": ["1"]}}
        out = run(address, "status")[1]
        assert "does not tell its workers and queue: the server does not know this call" in out
        assert re.search(r"^old +1 +ready +unknown", out, re.MULTILINE)
        assert "older version" in sentence(run(address, "jobs"), 1)


def test_a_narrow_terminal_cuts_nothing_off():
    name = "nightly-" + "0123456789" * 11
    job = admin_pb2.Job(
        number=100_014,
        request_id=name,
        caller="[bold]anna",
        method="occlusion",
        model="a_model_with_quite_a_long_name_384",
        version="2026-11-21",
        state=admin_pb2.JOB_STATE_RUNNING,
        worker=1,
        seconds=11_520,
        device_seconds=0.012,
        predicted_seconds=205,
        step=12,
        steps=10_000,
        attempts=2,
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(formatting_admin.jobs_table([job]))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and lines[1].split()[:6] == ["100014", "worker", "1", "3h12m", "12ms", "3m25s"]
    last = "".join(line[lines[0].index("request") :].strip() for line in lines[1:])
    told_of = f"occlusionof{job.model}@{job.version},step12of10,000{name}by[bold]anna,attempt2"
    assert last.replace(" ", "") == told_of


def test_health_is_an_exit_code(server):
    assert run(server.address, "status", "--health") == (0, "", "")
    assert run("127.0.0.1:1", "status", "--health", "--timeout", "2") == (1, "", "")
    assert "--health prints nothing" in sentence(run(server.address, "status", "--health", "--live"), 2)
