"""A Prometheus and an Alertmanager of their own, on the loopback, whose data goes when they do."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

PROGRAMS = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
"""What is needed, and the package of Debian that has it."""
JOB = "lightwell"
EVERY = 2
"""Seconds between two scrapes, and between two evaluations of the rules."""
PATIENCE = 60.0
LOOK = 0.1


def missing() -> str | None:
    """What is to be installed, in a sentence; None if everything is there."""
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    return f"install {' and '.join(packages)} first: apt-get install {' '.join(packages)}" if packages else None


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(found: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:  # noqa: ANN401
    """What is found first that is not empty. Raises TimeoutError."""
    over = time.monotonic() + patience
    while not (value := found()):
        if time.monotonic() > over:
            raise TimeoutError(f"{what}: not within {patience:.0f} s")
        time.sleep(LOOK)
    return value


class Prometheus:
    """Asks a Prometheus."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    @property
    def version(self) -> str:
        """Its version."""
        version: str = self._get("status/buildinfo")["version"]
        return version

    def vector(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now, each with `metric` and `value`; of a range selector with `values`. Raises
        ValueError for what is no expression."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def number(self, expression: str) -> float:
        """The value of an expression that has one series or none: 0 then."""
        return sum(float(each["value"][1]) for each in self.vector(expression))

    def between(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series of an expression over a time."""
        data = self._get("query_range", query=expression, start=start, end=end, step=EVERY)
        found: list[dict[str, Any]] = data["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their last evaluation."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Alerts that are firing, by name."""
        found = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in found if alert["state"] == "firing"}

    def _get(self, path: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401
        try:
            with urllib.request.urlopen(f"{self._root}/api/v1/{path}?{urllib.parse.urlencode(given)}") as page:
                data: dict[str, Any] = json.load(page)["data"]
                return data
        except urllib.error.HTTPError as error:
            raise ValueError(f"{given.get('query', path)}: {json.load(error).get('error')}") from None


@dataclass(frozen=True)
class Notice:
    """What Alertmanager has told of an alert: its name, `firing` or `resolved`, and when that came."""

    name: str
    status: str
    came: float


@dataclass(frozen=True)
class Watching:
    """A Prometheus, and what Alertmanager has told so far."""

    prometheus: Prometheus
    notices: list[Notice]

    def told(self, name: str, status: str, since: float = 0.0) -> Notice | None:
        """The first notice of that kind that came after a time."""
        kind = name, status
        return next((each for each in self.notices if (each.name, each.status) == kind and each.came > since), None)


@contextmanager
def watching(target: int, rules: Sequence[Path]) -> Iterator[Watching]:
    """Both, with those files of rules, scraping a port. Raises OSError with what one of them said if it does not
    start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        notices = stack.enter_context(_receiver())
        alerting = _written(folder / "alertmanager.yml", _alertmanager(notices.server_port))
        ports = free_port(), free_port()
        stack.enter_context(
            _running(
                "prometheus-alertmanager",
                f"--config.file={alerting}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{ports[0]}",
                "--cluster.listen-address=",
                ready=f"http://127.0.0.1:{ports[0]}/-/ready",
            )
        )
        scraping = _written(folder / "prometheus.yml", _prometheus(target, ports[0], rules))
        stack.enter_context(
            _running(
                "prometheus",
                f"--config.file={scraping}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{ports[1]}",
                ready=f"http://127.0.0.1:{ports[1]}/-/ready",
            )
        )
        yield Watching(Prometheus(ports[1]), notices.found)


def _prometheus(target: int, alertmanager: int, rules: Sequence[Path]) -> dict[str, Any]:
    return {
        "global": {
            "scrape_interval": f"{EVERY}s",
            "scrape_timeout": f"{EVERY}s",
            "evaluation_interval": f"{EVERY}s",
        },
        "rule_files": [str(path) for path in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }


def _alertmanager(receiver: int) -> dict[str, Any]:
    """Each alert is told by itself, and at once."""
    times = {"group_by": ["..."], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    hook = {"url": f"http://127.0.0.1:{receiver}/", "send_resolved": True}
    return {"route": {"receiver": "bench", **times}, "receivers": [{"name": "bench", "webhook_configs": [hook]}]}


def _written(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def _running(program: str, *options: str, ready: str) -> Iterator[None]:
    """A process until the block ends, which begins when it answers at the address `ready`."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)
        try:
            over = time.monotonic() + PATIENCE
            while not _answers(ready):
                if process.poll() is not None or time.monotonic() > over:
                    log.seek(0)
                    raise OSError(f"{program} did not start: {(log.read().splitlines() or ['it said nothing'])[-1]}")
                time.sleep(LOOK)
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address):
            return True
    except OSError:
        return False


class _Receiver(ThreadingHTTPServer):
    """Where Alertmanager sends what it has to tell."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.found: list[Notice] = []


class _Hook(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        now = time.time()
        self.server.found += [Notice(each["labels"]["alertname"], each["status"], now) for each in told["alerts"]]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _receiver() -> Iterator[_Receiver]:
    with _Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
