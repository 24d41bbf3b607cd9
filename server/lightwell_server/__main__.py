"""Starts the server, serves, and stops cleanly: `python -m lightwell_server --repository DIR`."""

from __future__ import annotations

import os

# Read when an accelerator starts: without it its matrix products are not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import asyncio
import json
import logging
import os
import signal
import sys
import time

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from pydantic import ValidationError
from pydantic_settings import CliApp

from lightwell.v1 import explainer_pb2, explainer_pb2_grpc
from lightwell_server import metrics
from lightwell_server.catalog import catalog
from lightwell_server.config import Settings
from lightwell_server.engine.worker import Worker
from lightwell_server.interceptors import Boundary
from lightwell_server.models.answer import answer
from lightwell_server.models.store import Model, Store, Version
from lightwell_server.service import ExplainerService, ModelService

log = logging.getLogger("lightwell_server")

EXPLAINER = explainer_pb2.DESCRIPTOR.services_by_name["ExplainerService"].full_name
MODELS = explainer_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def main() -> None:
    """Runs until SIGTERM or SIGINT; a second signal stops at once."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        wrong = (f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors())
        sys.exit(f"lightwell serve: {'; '.join(wrong)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Starts, serves and drains one server."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    catalog()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, registry=metrics.REGISTRY)
    store, worker = Store(), Worker(answer, settings.max_jobs, settings.max_rows, settings.step_seconds)
    store.expect(settings.repository)
    stop, boundary = _signals(), Boundary()
    server, status = _server(settings, store, worker, boundary)
    port = server.add_insecure_port(settings.address)
    await server.start()
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
    if not healthy:
        sys.exit("lightwell: the engine failed; see the log")
    if not ready.done():
        os._exit(0)  # files are still being read, on threads that nothing else can stop


def _server(
    settings: Settings, store: Store, worker: Worker, boundary: Boundary
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    limit = settings.max_message_bytes
    options = [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(interceptors=[boundary], options=options)
    explainer = ExplainerService(store, worker, settings.max_seconds, settings.max_pixels)
    explainer_pb2_grpc.add_ExplainerServiceServicer_to_server(explainer, server)
    explainer_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(store), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    if settings.reflection:
        reflection.enable_server_reflection((EXPLAINER, MODELS, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, status


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
