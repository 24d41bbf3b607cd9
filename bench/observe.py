"""The chart's alerts and dashboard at a real server: `python -m bench.observe [--seconds S] [--out FILE]`.

promtool checks the rules and tries each where it should fire and where it should not. Then Prometheus and Alertmanager,
on the loopback, watch a server of two workers with the bundled model, and a second model that is refused:

- before the first request: every metric of docs/service.md is there, and nothing was counted.
- under load: every rule is evaluated without an error and finds series to look at; no alert fires that should not.
- a worker is killed: the alert fires within two scrapes, Alertmanager tells of it, and when its window is over, that it
  is resolved. For the latter the rules are there twice, the second time with windows fifteen times shorter.
- every panel of the dashboard has series; they are drawn as one page.
- the server is stopped: the alert of that fires, too.

Columns: `ms` is how long an evaluation took; `series` how many the rule looks at, the fewest of its selectors; `state`
what it was when the load ended. It needs Debian's packages prometheus and prometheus-alertmanager.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import grpc
import numpy as np

from bench.common.operator import send
from bench.common.proof import none
from bench.common.table import Goal, print_goals, report, table
from bench.monitoring.load import USUAL, loaded
from bench.monitoring.panels import Panel, draw, panels
from bench.monitoring.rules import CASES, ROOT, RULES, SHORT, cases, evaluated, promtool, shortened
from bench.monitoring.stack import EVERY, JOB, Watching, free_port, missing, until, watching
from lightwell.serving import Server, bundled, served
from lightwell.v1 import admin_pb2, explainer_pb2_grpc

SECONDS = 60.0
"""Of load before a worker is killed, if nothing else is asked."""
KILLED, REFUSED, DOWN = "LightwellWorkerKilled", "LightwellModelRefused", "LightwellDown"
SCRAPES = 2
"""Within which an alert fires."""
RESOLVED = 120.0
"""Seconds after which an alert with a short window is over."""
ENDED = 30.0
"""Seconds after which the end of a server is told of, if that has to last for four."""
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
PAGE = ROOT / "observed" / "dashboard.png"


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.observe", description="Alerts and dashboard, tried.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of load before the kill ({SECONDS:.0f})")
    parser.add_argument(
        "--out", type=Path, default=PAGE, help="where the page of panels is drawn (observed/dashboard.png)"
    )
    return parser.parse_args()


def main() -> int:
    """Tries all, prints, and draws; returns 1 if a goal is missed or nothing can be measured, 2 if a program is
    missing."""
    given = options()
    if wanting := missing():
        print(wanting, file=sys.stderr)
        return 2
    try:
        with report("Observe: the bundled model on two workers, watched by Prometheus", workers=True):
            promtool("check", RULES)
            promtool("test", CASES)
            print(f"promtool: {RULES.name} is in order, and alerts as {cases()} cases expect")
            goals = _watched(given.seconds, given.out)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


def _watched(seconds: float, out: Path) -> list[Goal]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "short.yaml").write_text(shortened(RULES.read_text()))
        port = free_port()
        seen = stack.enter_context(watching(port, [RULES, folder / "short.yaml"]))
        print(f"Prometheus {seen.prometheus.version}, a scrape and an evaluation every {EVERY} s\n", flush=True)
        with served(_repository(folder), "--workers", "2", "--metrics-port", str(port)) as server:
            goals = _before(seen)
            goals += _under_load(seen, server, seconds, out)
            stopped = time.time()
        told = until(lambda: seen.told(DOWN + SHORT, "firing", stopped), f"Alertmanager's notice of {DOWN}{SHORT}")
        return [*goals, Goal("from the server's end to its alert", told.came - stopped, ENDED, False, ".1f", " s")]


def _repository(folder: Path) -> Path:
    """The bundled model, and one whose file is none."""
    repository = folder / "repository"
    shutil.copytree(bundled(), repository)
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.pt").write_bytes(b"no model")
    return repository


def documented() -> dict[str, str]:
    """The metrics of docs/service.md with their types."""
    rows = re.findall(r"^\| (`lightwell_.*?) \| (\w+) \|", (ROOT / "docs" / "service.md").read_text("utf-8"), re.M)
    assert rows
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


def _before(seen: Watching) -> list[Goal]:
    """What there is before the first request."""
    prometheus = seen.prometheus
    until(lambda: prometheus.number('lightwell_workers{state="ready"}') == 2, "two workers that are ready")
    until(lambda: prometheus.number('sum(lightwell_model_loads_total{state="ready"})') == 2, "the model on both")
    until(lambda: seen.told(REFUSED, "firing"), f"Alertmanager's notice of {REFUSED}")
    found = {each["metric"]["__name__"] for each in prometheus.vector(f'count by (__name__) ({{job="{JOB}"}})')}
    wanted = {name: {name + suffix for suffix in SUFFIXES[kind]} for name, kind in documented().items()}
    absent = [name for name, exposed in wanted.items() if not exposed <= found]
    series, took = (prometheus.number(f"scrape_{name}") for name in ("samples_scraped", "duration_seconds"))
    print(f"before the first request: {series:.0f} series, scraped in {1000 * took:.0f} ms")
    print("".join(f"  {name} is missing\n" for name in absent), flush=True)
    return [
        Goal("metrics of docs/service.md before the first request", len(wanted) - len(absent), len(wanted), True, "d"),
        none("requests counted before the first one", int(prometheus.number("sum(lightwell_requests_total)"))),
    ]


def _under_load(seen: Watching, server: Server, seconds: float, out: Path) -> list[Goal]:
    prometheus, began = seen.prometheus, time.time()
    with loaded(server.address) as ends:
        time.sleep(seconds)
        silent = _others(seen, "before the kill", {REFUSED})
        scrapes, killed = _killed(seen, server)
        time.sleep(8 * EVERY)
        rules, ended = evaluated(prometheus), time.time()
    shown = panels(prometheus, began, ended)
    draw(shown, {"kill -9": killed - began}, out)
    _print_rules(rules)
    _print_panels(shown)
    print(table(("asked by", "requests"), [(name, f"{count:,}") for name, count in sorted(ends.items())]), flush=True)
    failed = sum(count for name, count in ends.items() if name not in USUAL and name.partition(":")[0] in USUAL)
    return [
        silent,
        Goal("from the kill to its alert", scrapes, SCRAPES, False, "d", " scrapes"),
        _others(seen, "after the kill", {REFUSED, KILLED}),
        none("rules that were not evaluated in order", sum(health != "ok" for _, health, *_ in rules)),
        none("rules that look at nothing", sum(not series for *_, series, _ in rules)),
        none("queries of panels without a figure", sum(len(panel.silent) for panel in shown)),
        none("requests of usual callers that failed", failed),
    ]


def _others(seen: Watching, when: str, expected: set[str]) -> Goal:
    """That Alertmanager has told of no others so far, of the rules as they are."""
    firing = {each.name for each in seen.notices if each.status == "firing" and not each.name.endswith(SHORT)}
    for name in sorted(firing - expected):
        print(f"{when} {name} has fired, too", flush=True)
    return none(f"other alerts {when}", len(firing - expected))


def _killed(seen: Watching, server: Server) -> tuple[int, float]:
    """Kills the first worker, and waits for what comes of it: how many scrapes it took, and when it was."""
    with grpc.insecure_channel(server.address) as channel:
        status = explainer_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
    killed = time.time()
    assert send(status.workers[0].pid, signal.SIGKILL)
    alert = until(lambda: seen.prometheus.alerts().get(KILLED), KILLED)
    fired = datetime.fromisoformat(alert["activeAt"]).timestamp()
    up = seen.prometheus.vector(f'up{{job="{JOB}"}}[1m]')[0]["values"]
    scrapes = sum(killed < float(when) <= fired for when, _ in up)
    told = until(lambda: seen.told(KILLED, "firing"), f"Alertmanager's notice of {KILLED}")
    over = until(lambda: seen.told(KILLED + SHORT, "resolved"), f"the end of {KILLED}{SHORT}", RESOLVED)
    rows = [
        (f"{KILLED} fires", f"{fired - killed:.1f}", str(scrapes)),
        ("Alertmanager has told of it", f"{told.came - killed:.1f}", ""),
        (f"{KILLED}{SHORT} is resolved", f"{over.came - killed:.1f}", ""),
    ]
    print(table(("after the first kill -9 of a worker", "seconds", "scrapes"), rows) + "\n", flush=True)
    return scrapes, killed


def _print_rules(rules: list[tuple[str, str, float, int, str]]) -> None:
    """Those as they are: of the others it is enough that they are in order."""
    as_they_are = [rule for rule in rules if not rule[0].endswith(SHORT)]
    rows = [(name, health, f"{ms:.1f}", str(series), state) for name, health, ms, series, state in as_they_are]
    print(table(("rule", "evaluated", "ms", "series", "state"), rows) + "\n")


def _print_panels(shown: list[Panel]) -> None:
    rows = []
    for panel in shown:
        figures = [line.figures[np.isfinite(line.figures)] for line in panel.lines]
        largest = max((each.max() for each in figures if each.size), default=float("nan"))
        rows.append((panel.title, str(len(panel.lines)), f"{largest:.3g}", panel.field["unit"]))
    print(table(("panel", "series", "largest", "unit"), rows) + "\n")


if __name__ == "__main__":
    sys.exit(main())
