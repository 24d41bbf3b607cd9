"""One device with its models and its engine: takes requests whose images are pixels, and returns messages."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import torch
from google.protobuf.message import Message
from prometheus_client.metrics_core import Metric

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import models_pb2 as models
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell_server.catalog import Request, catalog
from lightwell_server.config import Settings
from lightwell_server.contract import Ask, Asking, Frame
from lightwell_server.engine.engine import Engine
from lightwell_server.engine.run import Done, Event, Failed, Passed, Run
from lightwell_server.errors import LightwellError, NotFound, Refused, ruinous
from lightwell_server.models import store
from lightwell_server.models.answer import deterministic_answer
from lightwell_server.models.store import Model
from lightwell_server.observability.metrics import DeviceMetrics
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.backend import Response
from lightwell_server.requests.models import Key, models_of
from lightwell_server.resources import processors
from lightwell_server.runtime import describe, responses
from lightwell_server.runtime.costs import cost_of
from lightwell_server.runtime.event_queue import EventQueue
from lightwell_server.runtime.limits import Limits, used_bytes
from lightwell_server.runtime.loading import LOADERS, Loading, Overdue
from lightwell_server.runtime.prepare import PreparedRequest, prepare
from lightwell_server.runtime.queries import queries
from lightwell_server.threads import alone, aside, iterated, single_threaded_pool

T = TypeVar("T")
log = logging.getLogger(__name__)

LOOKED = 0.5
"""Seconds between two checks of the engine."""


class Device:
    """A device of this process. `watch` and `failed` are the engine's."""

    def __init__(
        self,
        settings: Settings,
        device: str,
        watch: Callable[[Collection[Run]], object] = lambda runs: None,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        threads = settings.threads or processors()
        if settings.threads or threads < torch.get_num_threads():  # torch ignores the quota of a control group
            torch.set_num_threads(threads)
        self.metrics = DeviceMetrics(tuple(catalog()))
        self._settings, self._device, self._limits = settings, device, _limits(settings, device)
        self._failed = failed
        self._models: dict[tuple[str, str], Model] = {}
        self._began = time.monotonic()
        self._loading = Loading(settings.max_load_seconds)
        self._threads = single_threaded_pool(4, "codec")
        self._engine = Engine(
            deterministic_answer,
            settings.max_jobs + LOADERS,  # models that are warmed need room, too
            settings.max_rows,
            settings.step_seconds,
            fitting=self._limits.fitting,
            watch=watch,
            failed=failed,
            processors=torch.device(device).type == "cpu",
            metrics=self.metrics,
        )
        self.metrics.device_memory.labels(device).set_function(lambda: used_bytes(torch.device(device)))

    @property
    def workers(self) -> int:
        """One device, while its engine runs."""
        return int(self._engine.alive)

    @property
    def warm(self) -> bool:
        """Whether its engine runs: loaded models are warm."""
        return self._engine.alive

    def answers(self, name: str, version: str) -> bool:
        """Whether the version is loaded and the engine runs."""
        return self._engine.alive and (name, version) in self._models

    async def supervise(self) -> None:
        """Returns when the engine has failed."""
        while self._engine.alive:
            await asyncio.sleep(LOOKED)

    def scraped(self) -> Iterable[Metric]:
        """Its metrics."""
        return self.metrics.registry.collect()

    def attained(self) -> Mapping[int, float]:
        """Device seconds that each run has used."""
        return {run.number: run.attained for run in self._engine.runs}

    def statuses(self) -> list[admin.WorkerStatus]:
        """The status of this process."""
        return [
            admin.WorkerStatus(
                state=admin.WORKER_STATE_READY if self._engine.alive else admin.WORKER_STATE_ENDED,
                pid=os.getpid(),
                device=self._device,
                up_seconds=time.monotonic() - self._began,
                jobs=len(self._engine.runs),
            )
        ]

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version of the repository when a load slot is free, and warms it. Raises `Refused`, also if it takes
        too long."""
        try:
            async with self._loading.of(f"{name}@{version}"):
                return await self.load_untimed(name, version)
        except Overdue:
            self.metrics.model_loads.labels("refused").inc()
            raise

    async def load_untimed(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version at once, without a timeout. Raises `Refused`."""
        try:
            model = await self._lifted(name, version)
            await self._warm(model)
        except LightwellError as error:
            if error.__cause__ is not None and ruinous(error.__cause__):
                self._failed()  # the accelerator has failed, not the model
            self.metrics.model_loads.labels("refused").inc()
            raise Refused(error.message) from error
        model.graph.on_lookup = self._count_lookup
        self._models[name, version] = model
        self.metrics.model_loads.labels("ready").inc()
        return await self._on_thread(describe.described, model)

    async def unload(self, name: str, version: str) -> None:
        """Unloads a version; requests in progress keep it until they are over."""
        self._models.pop((name, version), None)

    async def run(self, request: Request, admitted: AdmittedRequest) -> AsyncGenerator[Response, None]:
        """Runs a request. Raises LightwellError."""
        model, further = self._models_of(request)
        prepared = await self._on_thread(prepare, request, model, further)
        if isinstance(request, synthesize.SynthesizeRequest):  # checks the limits before the first step
            await self._on_thread(cost_of, prepared, self._limits, self._engine.seconds)
        admitted.attempts, admitted.worker = 1, 0
        async with aclosing(self._events(prepared, admitted)) as events:
            async for event, run in events:
                if isinstance(event, Passed):
                    yield explain.ExplainProgress(passes_done=event.done, passes_total=event.total)
                elif isinstance(event, Frame):
                    drawn = event.image is not None
                    message = functools.partial(responses.progress, event, prepared)
                    yield await self._on_thread(message) if drawn else message()
                elif isinstance(event, Done):
                    answered = (
                        responses.explanation if isinstance(request, explain.ExplainRequest) else responses.synthesis
                    )
                    yield await self._on_thread(answered, prepared, event.result, run)

    async def query(self, rpc: str, request: Any, admitted: AdmittedRequest) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """Runs a query on a thread of its own pool, next to the engine. Raises LightwellError."""
        query = queries()[rpc]
        asked, model, further = query.asked(request), None, dict[str, Model]()
        if asked is not None:
            model, further = self._models_of(asked)
        elif query.of_model:
            model = self._model((request.model, request.version))
        given = {"request": request, "model": model, "further": further, "limits": self._limits}
        answers = query.answers({**given, "seconds": self._engine.seconds})
        async with aclosing(iterated(self._threads, answers)) as answered:
            async for response in answered:
                yield response

    async def stop(self) -> None:
        """Stops the engine."""
        await asyncio.to_thread(self._engine.stop)

    def _models_of(self, request: Request) -> tuple[Model, dict[str, Model]]:
        """The model of a request, and the further ones by their roles."""
        keys = models_of(request)
        return self._model(keys[None]), {role: self._model(key) for role, key in keys.items() if role is not None}

    def _model(self, key: Key) -> Model:
        model = self._models.get(key)
        if model is None:
            raise NotFound(f"model {'@'.join(key)} is not loaded", reason="VERSION_NOT_FOUND")
        return model

    async def _events(
        self, prepared: PreparedRequest, admitted: AdmittedRequest
    ) -> AsyncGenerator[tuple[Event, Run], None]:
        """Runs a prepared request; yields its events. Closing the generator stops the run at the next step."""
        queue = EventQueue(asyncio.get_running_loop())
        call = admitted.call
        run = prepared.run(queue.put, admitted.deadline, admitted.watched, call.id, admitted.number, call.caller)
        self._engine.submit(run)
        try:
            event: Event | None = None
            while not isinstance(event, Done):
                event = await queue.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event, run
        finally:
            self._engine.cancel(run)
            self.metrics.queue_seconds.labels(run.method).observe(run.queued)
            call.spans += run.spans

    async def _warm(self, model: Model) -> None:
        """Runs one row through a model, queued like all other steps. Raises LightwellError."""
        queue = EventQueue(asyncio.get_running_loop())
        run = Run("warm", _once(model), {None: model.graph}, queue.put, _inputs(model), name=model.id)
        self._engine.submit(run)
        try:
            event = await queue.get()
        except asyncio.CancelledError:
            self._engine.cancel(run)
            raise
        if isinstance(event, Failed):
            raise event.error

    def _count_lookup(self, cached: bool) -> None:
        self.metrics.cuts.labels("hit" if cached else "miss").inc()

    async def _lifted(self, name: str, version: str) -> Model:
        """Lifts a file on a new thread, so that threads which operations start meanwhile end with it."""
        settings = self._settings
        dtype = getattr(torch, settings.dtype)

        def lifted() -> Model:
            alone()
            return store.load(settings.repository, name, version, self._device, dtype)

        try:
            return await aside("lift", lifted)
        except asyncio.CancelledError:
            log.warning("the thread that was loading model %s@%s stays until it ends by itself", name, version)
            raise

    async def _on_thread(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
        """Runs a function on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *arguments))


def _once(model: Model) -> Asking:
    card, device = model.card, model.graph.device
    shape = (card.input.code,) if card.kind == "generator" else (len(model.facts.mean), *model.facts.size)
    yield Ask(torch.zeros(1, *shape, device=device), lambda out, index: out.flatten(1).sum(1))


def _inputs(model: Model) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(spec.shape, dtype=spec.dtype, device=model.graph.device)
        for name, spec in model.card.sample().inputs.items()
    }


def _limits(settings: Settings, device: str) -> Limits:
    """The limits of a device step."""
    return Limits(
        steps=settings.max_request_steps,
        rows=settings.max_request_rows,
        memory=settings.max_memory_bytes,
        device=device,
    )
