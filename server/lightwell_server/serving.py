"""One server: set up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from lightwell.v1 import explainer_pb2, explainer_pb2_grpc
from lightwell_server import logs, metrics
from lightwell_server.access import Access
from lightwell_server.catalog import catalog
from lightwell_server.config import Settings
from lightwell_server.engine.worker import Worker
from lightwell_server.interceptors import Boundary, Observer
from lightwell_server.limits import Limits, used_bytes
from lightwell_server.models.answer import answer
from lightwell_server.models.store import Model, Store, Version
from lightwell_server.service import ExplainerService, ModelService
from lightwell_server.tls import credentials

if TYPE_CHECKING:
    from lightwell_server.tracing import Tracing

log = logging.getLogger(__name__)

EXPLAINER = explainer_pb2.DESCRIPTOR.services_by_name["ExplainerService"].full_name
MODELS = explainer_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Serving:
    """A server on its address, not yet started: made within a running event loop. Raises OSError and ValueError for
    settings that cannot be kept on this machine."""

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        catalog()
        self._settings = settings
        self._tracing = _tracing(settings)
        observers: list[Observer] = [logs.CallLog(settings.slow_seconds), *([self._tracing] if self._tracing else [])]
        self._boundary = Boundary(Access(settings.tokens), observers, settings.max_streams_per_caller)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=[self._boundary], options=_options(settings))
        self._probed = _health_alone(settings, self._health)
        self._port = _listen(settings, self._server)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        limits, self._store = _limits(settings), Store()
        self._worker = Worker(
            answer, settings.max_jobs, settings.max_rows, settings.step_seconds, fitting=limits.fitting
        )
        _measure(settings, self._worker)
        self._add_services(limits)

    def _add_services(self, limits: Limits) -> None:
        explainer = ExplainerService(self._store, self._worker, limits)
        explainer_pb2_grpc.add_ExplainerServiceServicer_to_server(explainer, self._server)
        explainer_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self._store), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._settings.reflection:
            names = (EXPLAINER, MODELS, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set or the engine fails, and drains. Raises RuntimeError if the engine failed."""
        self._store.expect(self._settings.repository)
        await self._server.start()
        if self._probed is not None:
            await self._probed.start()
        ready, stopping = asyncio.create_task(self._load()), asyncio.create_task(stop.wait())
        await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
            print(f"lightwell: serving {len(self._store.ready())} models on port {self._port}", flush=True)
        while self._worker.alive and not stopping.done():
            await asyncio.wait([stopping], timeout=1.0)
        healthy = self._worker.alive
        await self._drain()
        if not healthy:
            raise RuntimeError("the engine failed; see the log")

    async def _load(self) -> None:
        """Loads the models, and says so: the process at once, each model by its name as soon as it is decided, the
        services when all are."""
        settings, loop = self._settings, asyncio.get_running_loop()
        await self._health.set("", _SERVING)
        for name in (EXPLAINER, MODELS, *(model.name for model in self._store.all())):
            await self._health.set(name, _NOT_SERVING)

        def decided(model: Version) -> None:
            if isinstance(model, Model):
                asyncio.run_coroutine_threadsafe(self._health.set(model.name, _SERVING), loop).result()

        dtype = getattr(torch, settings.dtype)
        await asyncio.to_thread(self._store.load, settings.repository, settings.device, dtype, decided)
        for service in (EXPLAINER, MODELS):
            await self._health.set(service, _SERVING)

    async def _drain(self) -> None:
        """Tells load balancers, takes no new calls, and finishes those that are accepted within the grace time. Watches
        of health never end by themselves: they are cut off when all other calls are done."""
        settings = self._settings
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(settings.settle_seconds)
        log.info("stopping: %d requests are in progress", self._boundary.calls)
        began = time.monotonic()
        refusing = asyncio.create_task(self._server.stop(settings.grace_seconds))
        while self._boundary.calls and time.monotonic() - began < settings.grace_seconds:
            await asyncio.sleep(0.02)
        await self._server.stop(0)
        await refusing
        if self._probed is not None:
            await self._probed.stop(0)
        await asyncio.to_thread(self._worker.stop)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)
        log.info("stopped after %.1f seconds", time.monotonic() - began)


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


def _listen(settings: Settings, server: grpc.aio.Server) -> int:
    """Takes the address; returns the port."""
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(settings.address)
        secure = credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        return server.add_secure_port(settings.address, secure)
    except RuntimeError:
        raise OSError(f"--address: cannot listen on {settings.address}; is the port taken?") from None


def _health_alone(settings: Settings, status: health.aio.HealthServicer) -> grpc.aio.Server | None:
    """A server of health alone, in plaintext, if one is wanted."""
    if settings.health_address is None:
        return None
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    try:
        server.add_insecure_port(settings.health_address)
    except RuntimeError:
        raise OSError(f"--health-address: cannot listen on {settings.health_address}; is the port taken?") from None
    return server
