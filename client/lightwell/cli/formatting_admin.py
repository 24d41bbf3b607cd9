"""Status and jobs for the command line: tables to read, plain values for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightwell.cli.formatting import counted, plain
from lightwell.cli.status import Status
from lightwell.cli.terminal import table
from lightwell.v1 import admin_pb2, models_pb2

_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "loading": "yellow",
    "ended": "red",
    "refused": "red",
    "unloaded": "dim",
}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def status(found: Status) -> dict[str, Any]:
    """A server's status; `models` and `status` are null if the caller has no right to them."""
    models = None
    if found.models is not None:
        models = {
            name: {"health": health, "versions": [model.version for model in found.models if model.name == name]}
            for name, health in found.health.items()
        }
    return {
        "server": found.address,
        "reachable": True,
        "services": found.services,
        "models": models,
        "status": plain(found.own) if found.own else None,
        **({"reason": found.reason} if found.reason else {}),
    }


def status_shown(found: Status) -> Group:
    """The same as tables."""
    return Group(*_status(found))


def jobs_table(jobs: Iterable[admin_pb2.Job]) -> Table:
    """A table with a row for each job."""
    return table(("job", "state", "age", "used", "predicted", "request"), map(_job, jobs))


def _status(found: Status) -> Iterator[RenderableType]:
    untold = "workers and queue" if found.models is not None else "models, workers and queue"
    known = "" if found.models is None else f" and holds {counted(len(found.health), 'model')}"
    yield Text(f"{found.address} is reachable{known}")
    for name, health in found.services.items():
        yield Text(f"  {name}  {health}")
    if found.own:
        yield from _own(found.own)
    else:
        yield Text(f"  does not tell its {untold}: {found.reason}")
    if found.models:
        yield from _models(found.models, found.health, found.own.aliases if found.own else {})


def _own(own: admin_pb2.GetStatusResponse) -> Iterator[RenderableType]:
    stopping = ", stopping" if own.stopping else ""
    yield Text(f"  version {own.server_version}, up {_span(own.up_seconds)}{stopping}")
    left = f", about {_span(own.predicted_seconds)} until all are done" if own.predicted_seconds else ""
    yield Text(f"  {counted(own.running, 'job')} running, {own.waiting:,} waiting{left}")
    yield Text()
    head = ("worker", "state", "pid", "device", "up", "restarts", "jobs", "predicted", "step")
    yield table(head, map(_worker, own.workers))
    for worker in own.workers:
        if worker.last_end:
            yield Text(f"  worker {worker.number}'s last end: {worker.last_end}")
        if worker.alone:
            yield Text(f"  worker {worker.number} runs nothing beside a request that may have ended its predecessor")


def _worker(worker: admin_pb2.WorkerStatus) -> tuple[str | Text, ...]:
    return (
        str(worker.number),
        _state(plain(worker)["state"]),
        str(worker.pid or ""),
        worker.device,
        _span(worker.up_seconds),
        str(worker.restarts),
        str(worker.jobs),
        _span(worker.predicted_seconds),
        _span(worker.step_seconds),
    )


def _models(
    models: Iterable[models_pb2.ModelSummary], health: Mapping[str, str], aliases: Mapping[str, str]
) -> Iterator[RenderableType]:
    yield Text()
    head = ("model", "version", "state", "health", "aliases")
    yield table(head, (_model(model, health[model.name], aliases) for model in models))
    for model in models:
        if model.reason:
            yield Text(f"  {model.name} version {model.version} was refused: {model.reason}")


def _model(model: models_pb2.ModelSummary, health: str, aliases: Mapping[str, str]) -> tuple[str | Text, ...]:
    prefix = f"{model.name}@"
    own = (name.removeprefix(prefix) for name, at in aliases.items() if name.startswith(prefix) and at == model.version)
    return model.name, model.version, _state(plain(model)["state"]), health, ", ".join(sorted(own))


def _job(job: admin_pb2.Job) -> tuple[str | Text, ...]:
    step = f", step {job.step:,} of {job.steps:,}" if job.steps else ""
    caller = f" by {job.caller}" if job.caller else ""
    attempt = f", attempt {job.attempts}" if job.attempts > 1 else ""
    return (
        str(job.number),
        f"worker {job.worker}" if job.HasField("worker") else plain(job)["state"],
        _span(job.seconds),
        _span(job.device_seconds),
        _span(job.predicted_seconds),
        f"{job.method} of {job.model}@{job.version}{step}\n{job.request_id}{caller}{attempt}",
    )


def _state(word: str) -> Text:
    return Text(word, _STYLES.get(word, ""))


def _span(seconds: float) -> str:
    """A time in at most two units: 12ms, 3.2s, 42s, 3m20s, 2h5m, 4d7h; empty for 0, which means none or unknown."""
    if not seconds:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds >= 1 else f"{seconds * 1000:.0f}ms"
    whole = round(seconds)
    for (unit, size), (smaller, part) in pairwise(_UNITS):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{smaller}"
    return f"{whole}s"
