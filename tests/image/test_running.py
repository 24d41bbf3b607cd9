"""The image runs as strictly as a cluster runs it: what it may, what it answers, and that it loses nothing."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lightwell
from lightwell import Client, GradCam, Occlusion, Saliency, SmoothGrad
from lightwell.serving import bundled, served
from tests.image.containers import IMAGE, inspected, serving

SCENE = Path(lightwell.__file__).parent / "samples" / "scene.png"
METHODS = [Saliency(), GradCam(), SmoothGrad(samples=8), Occlusion()]


def test_no_process_has_a_right(server):
    """Gateway, what workers are forked from, and both workers."""
    processes = server.processes().values()
    assert len(processes) >= 4
    for status in processes:
        assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("folder", ["/", "/opt/lightwell", "/opt/torch", "/models", "/etc", "/run", "/var/tmp"])
def test_nothing_can_be_written(server, folder):
    done = server.run("touch", f"{folder}/written")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


def test_only_tmp_can_be_written(server):
    assert server.run("touch", "/tmp/written").returncode == 0


def test_its_health_is_told_by_its_own_command(server):
    kind, *command = inspected(IMAGE)["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert server.run(*command).returncode == 0
    assert replace(server, address="127.0.0.1:1").run(*command).returncode == 1


@pytest.fixture(scope="module")
def host():
    """The same server without a container."""
    with served(bundled()) as running:
        yield running


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_it_answers_with_the_bits_of_the_host(server, host, method):
    answers = []
    for address in (server.address, host.address):
        with Client(address) as client:
            answers.append(client.explain(SCENE, method, model="shapes", seed=7, reproducible=True))
    ours, hosts = answers
    assert not ours.provenance.exceptions
    assert np.abs(ours.map).max() > 0
    assert ours.map.tobytes() == hosts.map.tobytes()


class Load:
    """Calls that are in flight all the time; `answered` counts, `failed` has what was raised."""

    def __init__(self, address: str) -> None:
        self.answered, self.failed = 0, []
        self._client, self._over = Client(address), threading.Event()

    def ask(self) -> None:
        while not self._over.is_set():
            try:
                self._client.explain(SCENE, Occlusion(), model="shapes")
                self.answered += 1
            except lightwell.LightwellError as error:
                self.failed.append(error)

    def wait_for(self, more: int) -> None:
        """Waits until further calls were answered."""
        wanted, deadline = self.answered + more, time.monotonic() + 120
        while self.answered < wanted:
            assert time.monotonic() < deadline, f"{self.answered} answers, {self.failed}"
            time.sleep(0.05)

    def stop(self) -> None:
        self._over.set()


@contextmanager
def load(address: str, callers: int = 8):
    """Calls of several callers, until the end of the block and until all are answered."""
    asked = Load(address)
    with ThreadPoolExecutor(callers) as threads:
        running = [threads.submit(asked.ask) for _ in range(callers)]
        try:
            asked.wait_for(callers)
            yield asked
        finally:
            asked.stop()
    for each in running:
        each.result()


def test_a_worker_that_is_killed_costs_no_call(server, tell):
    with Client(server.address) as client, load(server.address) as asked:
        pid = client.status().workers[0].pid
        (on_host,) = (number for number, told in server.processes().items() if told["NSpid"].split()[-1] == str(pid))
        os.kill(on_host, signal.SIGKILL)
        asked.wait_for(16)
        deadline = time.monotonic() + 60
        while (worker := client.status().workers[0]).restarts == 0 or worker.pid == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert worker.pid != pid
    assert "SIGKILL" in worker.last_end
    assert not asked.failed
    tell(f"a worker was killed: {asked.answered} calls answered, none failed")


def test_sigterm_under_load_costs_no_call(server, tell):
    """Another server takes over, as while a cluster replaces one by the next."""
    with serving("serve", "--repository", "/opt/lightwell/bundled") as leaving:
        addresses = f"ipv4:{leaving.address},{server.address}"
        with load(addresses) as asked:
            assert leaving.stop() == 0
            asked.wait_for(16)
        assert not asked.failed
    tell(f"SIGTERM under load: exit code 0, {asked.answered} calls answered, none failed")
