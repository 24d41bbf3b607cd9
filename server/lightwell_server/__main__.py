"""Starts the server, serves, and stops cleanly: `python -m lightwell_server --repository DIR`."""

from __future__ import annotations

import os

# Read when an accelerator starts: without it its matrix products are not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import asyncio
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from pydantic import ValidationError

from lightwell.v1 import explainer_pb2, explainer_pb2_grpc
from lightwell_server import logs, metrics
from lightwell_server.access import Access
from lightwell_server.catalog import catalog
from lightwell_server.config import Settings, settings
from lightwell_server.engine.worker import Worker
from lightwell_server.interceptors import Boundary, Observer
from lightwell_server.limits import Limits, used_bytes
from lightwell_server.models.answer import answer
from lightwell_server.models.store import Model, Store, Version
from lightwell_server.service import ExplainerService, ModelService
from lightwell_server.tls import credentials

if TYPE_CHECKING:
    from lightwell_server.tracing import Tracing

log = logging.getLogger("lightwell_server")

EXPLAINER = explainer_pb2.DESCRIPTOR.services_by_name["ExplainerService"].full_name
MODELS = explainer_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def main() -> None:
    """Runs until SIGTERM or SIGINT; a second signal stops at once."""
    try:
        chosen = settings()
    except ValidationError as error:
        sys.exit(f"lightwell serve: {'; '.join(_wrong(e) for e in error.errors())}")
    except (OSError, ValueError) as error:
        sys.exit(f"lightwell serve: {error}")
    if chosen.print_config:
        print(chosen.toml(), end="")
        return
    logs.start(chosen.log_level)
    try:
        asyncio.run(serve(chosen))
    except (OSError, ValueError) as error:
        log.debug("the server could not start", exc_info=True)
        sys.exit(f"lightwell serve: {error}")


def _wrong(error: Any) -> str:  # noqa: ANN401 - pydantic's error details
    flag = f"--{'.'.join(map(str, error['loc'])).replace('_', '-')}: " if error["loc"] else ""
    return f"{flag}{error['msg'].removeprefix('Value error, ')}"


async def serve(settings: Settings) -> None:
    """Starts, serves and drains one server."""
    _check(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    catalog()
    limits = _limits(settings)
    store = Store()
    worker = Worker(answer, settings.max_jobs, settings.max_rows, settings.step_seconds, fitting=limits.fitting)
    _measure(settings, worker)
    store.expect(settings.repository)
    tracing = _tracing(settings)
    observers: list[Observer] = [logs.CallLog(settings.slow_seconds), *([tracing] if tracing else [])]
    stop, boundary = _signals(), Boundary(Access(settings.tokens), observers, settings.max_streams_per_caller)
    server, status = _server(settings, store, worker, boundary, limits)
    port = _listen(settings, server)
    await server.start()
    probed = await _probed(settings, status)
    ready, stopping = asyncio.create_task(_ready(settings, store, status)), asyncio.create_task(stop.wait())
    await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        await ready
        print(f"lightwell: serving {len(store.ready())} models on port {port}", flush=True)
    while worker.alive and not stopping.done():
        await asyncio.wait([stopping], timeout=1.0)
    healthy = worker.alive
    await status.enter_graceful_shutdown()
    await asyncio.sleep(settings.settle_seconds)
    await _drain(settings, server, worker, boundary)
    if probed is not None:
        await probed.stop(0)
    if tracing is not None:
        await asyncio.to_thread(tracing.stop)
    if not healthy:
        sys.exit("lightwell: the engine failed; see the log")
    if not ready.done():
        os._exit(0)  # files are still being read, on threads that nothing else can stop


def _check(settings: Settings) -> None:
    """Raises ValueError for what only this machine can tell to be wrong."""
    if not settings.repository.is_dir():
        raise ValueError(f"--repository: there is no directory {settings.repository}")
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # a build without accelerators asserts that there are some
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device: {settings.device} cannot be used here: {reason}") from None


def _limits(settings: Settings) -> Limits:
    return Limits(
        seconds=settings.max_seconds,
        pixels=settings.max_pixels,
        steps=settings.max_request_steps,
        rows=settings.max_request_rows,
        memory=settings.max_memory_bytes,
        device=settings.device,
    )


def _measure(settings: Settings, worker: Worker) -> None:
    """Serves the metrics; some are read at the moment of a scrape."""
    metrics.jobs.set_function(lambda: worker.jobs)
    metrics.device_memory.labels(settings.device).set_function(lambda: used_bytes(torch.device(settings.device)))
    if settings.metrics_port:
        try:
            start_http_server(settings.metrics_port, registry=metrics.REGISTRY)
        except OSError as error:
            raise OSError(f"--metrics-port: cannot listen on {settings.metrics_port}: {error.strerror}") from None


def _tracing(settings: Settings) -> Tracing | None:
    """Traces, if they are wanted: their libraries are loaded for nobody else."""
    if settings.otlp_endpoint is None:
        return None
    from lightwell_server.tracing import Tracing

    return Tracing(settings.otlp_endpoint)


def _options(settings: Settings) -> list[tuple[str, int]]:
    age = round(settings.max_connection_seconds * 1000)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1000)),
        # Callers may probe, too, also while a long step keeps a stream silent.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Calls at work are not cut off when a connection is renewed: they end by themselves, or by their limit.
        *([("grpc.max_connection_age_ms", age)] if age else []),
        ("grpc.max_connection_age_grace_ms", round(settings.max_seconds * 1000)),
        ("grpc.so_reuseport", 0),
    ]


def _server(
    settings: Settings, store: Store, worker: Worker, boundary: Boundary, limits: Limits
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    server = grpc.aio.server(interceptors=[boundary], options=_options(settings))
    explainer_pb2_grpc.add_ExplainerServiceServicer_to_server(ExplainerService(store, worker, limits), server)
    explainer_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(store), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    if settings.reflection:
        reflection.enable_server_reflection((EXPLAINER, MODELS, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, status


def _listen(settings: Settings, server: grpc.aio.Server) -> int:
    """Takes the address; returns the port."""
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(settings.address)
        secure = credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        return server.add_secure_port(settings.address, secure)
    except RuntimeError:
        raise OSError(f"--address: cannot listen on {settings.address}; is the port taken?") from None


async def _probed(settings: Settings, status: health.aio.HealthServicer) -> grpc.aio.Server | None:
    """A server of health alone, in plaintext, if one is wanted."""
    if settings.health_address is None:
        return None
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    server.add_insecure_port(settings.health_address)
    await server.start()
    return server


async def _ready(settings: Settings, store: Store, status: health.aio.HealthServicer) -> None:
    """Loads the models, and says so: the process at once, each model by its name as soon as it is decided, the services
    when all are."""
    loop = asyncio.get_running_loop()
    await status.set("", _SERVING)
    for name in (EXPLAINER, MODELS, *(model.name for model in store.all())):
        await status.set(name, _NOT_SERVING)

    def decided(model: Version) -> None:
        if isinstance(model, Model):
            asyncio.run_coroutine_threadsafe(status.set(model.name, _SERVING), loop).result()

    dtype = getattr(torch, settings.dtype)
    await asyncio.to_thread(store.load, settings.repository, settings.device, dtype, decided)
    for service in (EXPLAINER, MODELS):
        await status.set(service, _SERVING)


def _signals() -> asyncio.Event:
    """An event that the first signal sets; from then on a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def first() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, lambda *_: os._exit(1))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)
    return stop


async def _drain(settings: Settings, server: grpc.aio.Server, worker: Worker, boundary: Boundary) -> None:
    """Takes no new calls and finishes those that are accepted, within the grace time. Watches of health never end by
    themselves: they are cut off when all other calls are done."""
    log.info("stopping: %d requests are in progress", boundary.calls)
    began = time.monotonic()
    refusing = asyncio.create_task(server.stop(settings.grace_seconds))
    while boundary.calls and time.monotonic() - began < settings.grace_seconds:
        await asyncio.sleep(0.02)
    await server.stop(0)
    await refusing
    await asyncio.to_thread(worker.stop)
    log.info("stopped after %.1f seconds", time.monotonic() - began)


if __name__ == "__main__":
    main()
