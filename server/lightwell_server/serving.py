"""One server: set up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lightwell.v1 import explainer_pb2
from lightwell_server import descriptors, resources
from lightwell_server.catalog import catalog
from lightwell_server.config import Settings
from lightwell_server.gateway.admin import AdminService
from lightwell_server.gateway.admission import Admission
from lightwell_server.gateway.codec_pool import CodecPool
from lightwell_server.gateway.pipeline import Pipeline
from lightwell_server.gateway.reconciler import Reconciler
from lightwell_server.gateway.registry import ModelRegistry
from lightwell_server.gateway.services import ExplainerService, ModelService, answered
from lightwell_server.observability import exposition, logs
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.pool.pool import Pool
from lightwell_server.requests import rpcs
from lightwell_server.requests.backend import Backend
from lightwell_server.requests.budget import Budget
from lightwell_server.runtime.device import Device
from lightwell_server.runtime.queries import queries
from lightwell_server.transport import reflection
from lightwell_server.transport.access import Access
from lightwell_server.transport.exchange import Exchange
from lightwell_server.transport.health import Health
from lightwell_server.transport.interceptors import Boundary, Observer
from lightwell_server.transport.shedding import LoadShedder
from lightwell_server.transport.tls import credentials

if TYPE_CHECKING:
    from lightwell_server.observability.tracing import Tracing

log = logging.getLogger(__name__)

SERVICES = [service.full_name for service in explainer_pb2.DESCRIPTOR.services_by_name.values()]
CALLS = [rpc.name for service in explainer_pb2.DESCRIPTOR.services_by_name.values() for rpc in service.methods]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
LOOKED = 0.5
"""Seconds between two looks at what requests have used."""
STREAMS = 512
"""Calls of one connection at a time; its further ones wait on their own side."""
HANDSHAKE, SILENT = 10.0, 10.0
"""Seconds that a connection may take to be made, and that a probe may stay unanswered."""
READS = 4
"""Requests of the largest size that there is room for at any time."""
FALLBACK = 2**30
"""Bytes that requests, pictures and answers may take where the system does not tell what is free."""
PROBE_BYTES = 4096
"""Of a question for health where nothing else is asked."""
END = 2.0
"""Seconds that the end of a server takes at most beyond settling and grace."""


class Serving:
    """A server on its address, not yet started: made within a running event loop. Raises OSError and ValueError for
    settings that cannot be kept on this machine."""

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        self._settings = settings
        self._decided = False
        self._metrics = GatewayMetrics(tuple(catalog()), len(settings.owned), CALLS)
        self._tracing = _tracing(settings)
        observers: list[Observer] = [logs.CallLog(settings.slow_seconds), *([self._tracing] if self._tracing else [])]
        memory = _memory(settings)
        largest = min(settings.max_message_bytes, memory // 4 // READS)
        exchange = Exchange(
            Budget(memory // 4, "the messages"),
            Budget(memory // 4, "the answers"),
            largest,
            settings.max_message_bytes,
            settings.max_streams_per_caller,
            settings.max_receive_seconds,
            settings.max_send_seconds,
            self._metrics,
        )
        shedder = LoadShedder(lambda caller: self._admission.check(caller))
        self._boundary = Boundary(
            Access(settings.tokens, self._metrics),
            observers,
            exchange,
            shedder,
            settings.max_seconds,
            {query.path: query.right for query in queries().values()},
        )
        self._codec = CodecPool(memory // 2, self._metrics)
        self._health = Health()
        self._server = grpc.aio.server(interceptors=[self._boundary], options=_options(settings, largest))
        self._probed = _health_alone(settings, self._health)
        self._port = _listen(settings, self._server, self._metrics)
        self._registry = ModelRegistry(settings.repository, self._metrics, aliases=settings.aliases)
        self._backend: Backend = (
            Pool(settings, self._metrics) if settings.owned else Device(settings, settings.device_names[0])
        )
        self._admission = Admission(
            lambda: self._backend.workers,
            settings.max_jobs,
            settings.each_jobs,
            settings.max_queue_seconds,
            settings.max_request_steps,
            self._metrics,
        )
        self._reconciler = Reconciler(
            settings.repository, self._registry, self._backend, self._update_health, settings.versions == "all"
        )
        exposition.serve(settings.metrics_port, self._metrics, self._backend.scraped)
        self._add_services()

    def _add_services(self) -> None:
        settings, server, answers = self._settings, self._server, self._boundary.exchange.answers
        pipeline = Pipeline(
            self._registry,
            self._backend,
            self._admission,
            self._codec,
            answers,
            settings.max_seconds,
            settings.max_pixels,
        )
        self._admin = AdminService(
            self._registry,
            self._backend,
            self._admission,
            self._reconciler,
            lambda: exposition.text(self._metrics, self._backend.scraped),
        )
        functions = answered(pipeline, queries())
        for own in (ExplainerService(pipeline), ModelService(self._registry), self._admin):
            functions |= rpcs.functions(own)
        for service in explainer_pb2.DESCRIPTOR.services_by_name.values():
            if missing := set(service.methods_by_name) - set(functions):
                raise TypeError(f"no function answers {', '.join(sorted(missing))}; see runtime/queries")
            rpcs.serve(server, service, functions)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            reflection.serve(server, (*SERVICES, HEALTH))

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set or the engine fails, and drains. Raises RuntimeError if the engine failed."""
        await self._reconciler.expect()
        if self._settings.tokens is None:
            log.warning(
                "without --tokens whoever reaches %s may administer: stop jobs, unload models", self._settings.address
            )
        await self._server.start()
        if self._probed is not None:
            await self._probed.start()
        self._health.set("", serves=True)
        for name in (*SERVICES, *(entry.name for entry in self._registry.all())):
            self._health.set(name, serves=False)
        stopping = asyncio.create_task(stop.wait())
        works = [asyncio.create_task(work) for work in (self._backend.supervise(), self._keep())]
        await asyncio.wait([stopping, *works], return_when=asyncio.FIRST_COMPLETED)
        ended = [work for work in works if work.done()]
        await self._drain()
        for work in works:
            work.cancel()
        await asyncio.wait(works, timeout=END / 2)
        for work in ended:
            await work
            raise RuntimeError("the engine failed; see the log")

    async def _keep(self) -> None:
        """Follows the repository, and says when all models are decided that were there at first."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reconciler.watch())
            tasks.create_task(self._poll())
            await self._reconciler.load_all()
            self._decided = True
            for name in self._settings.required:
                if not self._answers(name):
                    log.error("not ready: the model %s of --require-models %s", name, self._reason(name))
            count = len(self._registry.ready())
            print(f"lightwell: serving {count} models on port {self._port}", flush=True)

    async def _poll(self) -> None:
        """Keeps health and what requests have used up to date: a model answers where a worker has it."""
        ready = False
        while True:
            if ready != self._ready():
                ready = not ready
                for service in SERVICES:
                    self._health.set(service, serves=ready)
            for name in {entry.name for entry in self._registry.all()}:
                await self._update_health(name)
            self._admission.attained(self._backend.attained())
            await asyncio.sleep(LOOKED)

    async def _update_health(self, name: str) -> None:
        """A model may have begun or ceased to answer."""
        self._health.set(name, serves=self._answers(name))

    def _ready(self) -> bool:
        """Whether the server takes requests as it should: the models that are required answer, and all others are
        decided."""
        return self._decided and self._backend.warm and all(map(self._answers, self._settings.required))

    def _answers(self, name: str) -> bool:
        """Whether a worker has a version of a model."""
        versions = (entry for entry in self._registry.versions(name) if entry.ready)
        return any(self._backend.answers(entry.name, entry.version) for entry in versions)

    def _reason(self, name: str) -> str:
        """Why a model does not answer."""
        reasons = [f"{entry.id}: {entry.reason}" for entry in self._registry.versions(name) if entry.reason]
        return f"is refused ({'; '.join(reasons)})" if reasons else "is not in the repository, or not loaded"

    async def _drain(self) -> None:
        """Tells load balancers, takes no new calls, and finishes those that are accepted within the grace time. Watches
        of health never end by themselves: they are cut off when all other calls are done."""
        settings = self._settings
        self._admin.stopping = True
        self._health.stop()
        await asyncio.sleep(settings.settle_seconds)
        log.info("stopping: %d requests are in progress", self._boundary.calls)
        began = time.monotonic()
        refusing = asyncio.create_task(self._server.stop(settings.grace_seconds))
        while self._boundary.calls and time.monotonic() - began < settings.grace_seconds:
            await asyncio.sleep(0.02)
        ending = [self._server.stop(0), refusing, self._backend.stop()]
        if self._probed is not None:
            ending.append(self._probed.stop(0))
        if self._tracing is not None:
            ending.append(asyncio.to_thread(self._tracing.stop))
        # Whoever does not let go of a connection, or takes no traces, is not waited for.
        _, open_ = await asyncio.wait([asyncio.ensure_future(end) for end in ending], timeout=END / 2)
        if open_:
            log.warning("%d parts of the server did not end by themselves", len(open_))
        log.info("stopped after %.1f seconds", time.monotonic() - began)


def _check(settings: Settings) -> None:
    """Raises ValueError for what only this machine can tell to be wrong."""
    if not settings.repository.is_dir():
        raise ValueError(f"--repository: there is no directory {settings.repository}")
    if settings.aliases is not None and not settings.aliases.exists():
        raise ValueError(f"--aliases: there is no file {settings.aliases}")
    for name in settings.device_names:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"--devices: {name} is no device: {reason}") from None
        there = torch.cuda.device_count()  # which does not touch the devices: they are the workers' to use
        if device.type != "cpu" and (device.index or 0) >= there:
            raise ValueError(f"--devices: {name} cannot be used here: there are {there} accelerators")


def _tracing(settings: Settings) -> Tracing | None:
    """Traces, if they are wanted: their libraries are loaded for nobody else."""
    if settings.otlp_endpoint is None:
        return None
    from lightwell_server.observability.tracing import Tracing

    return Tracing(settings.otlp_endpoint)


def _memory(settings: Settings) -> int:
    """Bytes that requests, pictures and answers may take together."""
    limit, free = resources.memory_limit(), resources.free_memory()
    share = FALLBACK if free is None else free // 5
    return settings.max_gateway_bytes or (share if limit is None else limit // 4)


def _options(settings: Settings, largest: int) -> list[tuple[str, int]]:
    age = round(settings.max_connection_seconds * 1000)
    return [
        *_bounds(settings),
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Calls at work are not cut off when a connection is renewed: they end by themselves, or by their limit.
        *([("grpc.max_connection_age_ms", age)] if age else []),
        ("grpc.max_connection_age_grace_ms", round(settings.max_seconds * 1000)),
    ]


def _bounds(settings: Settings) -> list[tuple[str, int]]:
    """What connections may take, whatever is called."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", settings.max_connections or descriptors.connections()),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE * 1000)),
        ("grpc.max_connection_idle_ms", round(settings.max_idle_seconds * 1000)),
        # Half-open connections are found out, whether they have calls or not.
        ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(SILENT * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Callers may probe, too, also while a long step keeps a stream silent.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # What a caller sends before its request is read stays small: windows do not grow with the connection's speed.
        ("grpc.http2.bdp_probe", 0),
    ]


def _listen(settings: Settings, server: grpc.aio.Server, metrics: GatewayMetrics) -> int:
    """Takes the address; returns the port."""
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(settings.address)
        secure = credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca, metrics)
        return server.add_secure_port(settings.address, secure)
    except RuntimeError:
        raise OSError(f"--address: cannot listen on {settings.address}; is the port taken?") from None


def _health_alone(settings: Settings, status: Health) -> grpc.aio.Server | None:
    """A server of health alone, in plaintext, if one is wanted."""
    if settings.health_address is None:
        return None
    server = grpc.aio.server(options=[*_bounds(settings), ("grpc.max_receive_message_length", PROBE_BYTES)])
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    try:
        server.add_insecure_port(settings.health_address)
    except RuntimeError:
        raise OSError(f"--health-address: cannot listen on {settings.health_address}; is the port taken?") from None
    return server
