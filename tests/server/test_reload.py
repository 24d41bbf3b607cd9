"""SIGHUP has files read anew, and ends nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explainer_pb2_grpc
from lightwell_server import reload
from lightwell_server.gateway.registry import ALIASES, ModelRegistry
from lightwell_server.reload import Watched
from tests.serving import bundled

pytestmark = pytest.mark.server

OLD, NEW = "the-first-of-two-tokens", "the-other-of-two-tokens"


def tokens(token):
    return f'[boss]\ntoken = "{token}"\nrights = ["admin", "explain"]\n'


def rewritten(path, text):
    """Other words in a file that looks as it did before: only who reads it anew finds them."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


class Running:
    """A server with tokens and a file of settings, and what it logs."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log"
        (folder / "tokens.toml").write_text(tokens(OLD))
        (folder / "settings.toml").write_text('log_level = "error"\n')
        command = [sys.executable, "-m", "lightwell_server", "--repository", str(bundled()), "--workers", "1"]
        command += ["--address", "127.0.0.1:0", "--metrics-port", "0", "--threads", "1"]
        command += ["--tokens", str(folder / "tokens.toml"), "--config", str(folder / "settings.toml")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        port = re.match(r".* on port (\d+)", self.process.stdout.readline())[1]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def status(self, token):
        """The server's status, or why there is none."""
        stub = explainer_pb2_grpc.AdminServiceStub(self.channel)
        try:
            return stub.GetStatus(admin.GetStatusRequest(), metadata=[("authorization", f"Bearer {token}")])
        except grpc.RpcError as error:
            return error.code()

    def logged(self, words):
        """Waits for a line with those words; returns its level."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if words in line and line.endswith("}"):
                    return json.loads(line)["level"]
            time.sleep(0.05)
        raise AssertionError(f"there is no line {words!r}: {self.log.read_text()}")


@pytest.fixture
def server(tmp_path):
    running = Running(tmp_path)
    yield running
    running.process.terminate()
    running.channel.close()
    try:
        assert running.process.wait(60) == 0
    finally:
        running.process.kill()
        running.process.communicate()


def test_a_hangup_reads_files_anew_and_ends_no_process(server):
    status = server.status(OLD)
    worker = status.workers[0].pid
    forker = parent(worker)
    assert parent(forker) == server.process.pid
    rewritten(server.folder / "tokens.toml", tokens(NEW))
    (server.folder / "settings.toml").write_text('log_level = "debug"\n')
    for process in (worker, forker, server.process.pid):
        os.kill(process, signal.SIGHUP)
    assert server.logged("the log level is debug") == "INFO"
    assert server.status(OLD) is grpc.StatusCode.UNAUTHENTICATED
    (after,) = server.status(NEW).workers
    assert (after.pid, after.restarts, parent(worker)) == (worker, 0, forker)

    (server.folder / "tokens.toml").write_text("[boss]\n")
    (server.folder / "settings.toml").write_text("log_level = [")
    server.process.send_signal(signal.SIGHUP)
    assert server.logged("settings cannot be read again, the log level stays") == "ERROR"
    assert server.logged("tokens cannot be read again, the old ones stay") == "ERROR"
    assert server.status(NEW).workers[0].pid == worker


def test_everything_watched_is_read_anew(tmp_path):
    (tmp_path / ALIASES).write_text('[net]\nstable = "1"\n')
    library = ModelRegistry(tmp_path)
    rewritten(tmp_path / ALIASES, '[net]\nstable = "2"\n')
    assert library.named("net") == {"1"}
    reload.reload()
    assert library.named("net") == {"1", "2"}


def test_a_file_of_aliases_elsewhere_is_followed_through_links_that_are_exchanged(tmp_path, monkeypatch):
    """As a ConfigMap's directory changes: a link to another directory."""
    monkeypatch.setattr(reload, "EVERY", 0.0)
    (tmp_path / ALIASES).write_text('[net]\nstable = "9"\n')
    mounted = tmp_path / "mounted"
    for version in ("1", "2"):
        (mounted / version).mkdir(parents=True)
        (mounted / version / ALIASES).write_text(f'[net]\nstable = "{version}"\n')
    (mounted / "data").symlink_to("1")
    (mounted / ALIASES).symlink_to(f"data/{ALIASES}")
    library = ModelRegistry(tmp_path, aliases=mounted / ALIASES)
    assert library.named("net") == {"1"}
    (mounted / "next").symlink_to("2")
    (mounted / "next").rename(mounted / "data")
    library.read_aliases()
    assert library.named("net") == {"1", "2"}


def test_what_is_wrong_is_told_at_each_reload_and_changes_nothing(tmp_path, caplog):
    file = tmp_path / "number"
    file.write_text("1")
    number = Watched("numbers", [file], lambda: int(file.read_text()))
    file.write_text("one")
    for told in (1, 2):
        number.reload()
        assert number.get() == 1 and caplog.text.count("numbers cannot be read again") == told
    file.write_text("2")
    number.reload()
    assert number.get() == 2
