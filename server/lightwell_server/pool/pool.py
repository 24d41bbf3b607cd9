"""The workers together: one line for all of them, each request to the one that will be free first, and what a worker
held when it ended is run again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from lightwell.transport.retry import Way
from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import models_pb2 as models
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell_server.catalog import Request
from lightwell_server.config import Settings
from lightwell_server.descriptors import Reserve
from lightwell_server.errors import Aborted, Internal, Unavailable
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.pool.client import Lost
from lightwell_server.pool.dispatcher import GONE, Dispatcher
from lightwell_server.pool.slot import FORKING, End, WorkerSlot
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.backend import Response
from lightwell_server.requests.models import Key, models_of
from lightwell_server.resources import processors
from lightwell_server.runtime.queries import queries

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a scrape waits for a worker."""
LONGEST_FOLDER = 85
"""Bytes of the path of the folder with the sockets: a socket's own path has 107 at most."""
PAUSE = 1.0
"""Seconds before what failed within the gateway is begun again."""
CRASHES = 2
"""Workers that may end under one request alone."""


class Pool:
    """One worker process for each device of the settings."""

    def __init__(self, settings: Settings, metrics: GatewayMetrics | None = None) -> None:
        self._metrics = metrics or GatewayMetrics()
        self._folder = Path(tempfile.mkdtemp(prefix="lightwell-"))
        if len(bytes(self._folder)) > LONGEST_FOLDER:
            raise ValueError(f"TMPDIR: {self._folder} is too long a path for sockets; take a shorter one")
        self._health = settings.worker_health_seconds
        self._desired: dict[Key, None] = {}
        FORKING.submit(int).result()  # has its thread start
        self._reserve = Reserve()
        self._dispatcher = Dispatcher(
            2 * settings.max_rows, self._metrics
        )  # a full step at work, and the next one at hand
        self._loop = asyncio.get_running_loop()
        patience = settings.worker_health_seconds, settings.max_seconds, settings.max_load_seconds
        self._strikes: dict[Key, int] = {}
        self._slots = [
            WorkerSlot(
                number,
                device,
                _launch_arguments(settings),
                self._folder,
                patience,
                self._desired,
                self._strikes,
                self._dispatcher.assign,
                self._reserve,
                self._metrics,
            )
            for number, device in enumerate(settings.owned)
        ]
        self._dispatcher.slots = self._slots
        for state in ("starting", "ready", "ended"):
            self._metrics.workers.labels(state).set_function(functools.partial(self._count, state))

    def _count(self, state: str) -> int:
        value = admin.WorkerState.Value(f"WORKER_STATE_{state.upper()}")
        return sum(slot.state == value for slot in self._slots)

    @property
    def workers(self) -> int:
        """How many have something loaded, and answer."""
        return self._dispatcher.workers

    @property
    def warm(self) -> bool:
        """Whether one answers with every model that can load."""
        return any(slot.ready for slot in self._slots)

    def answers(self, name: str, version: str) -> bool:
        """Whether a worker has loaded it."""
        return any((name, version) in slot.models for slot in self._slots)

    @property
    def _listening(self) -> bool:
        """Whether there are workers, and all of them can be told what to load."""
        living = [slot for slot in self._slots if slot.pid]
        return bool(living) and all(slot.client for slot in living)

    async def supervise(self) -> None:
        """Keeps the workers alive until it is cancelled. What fails in one place ends no other."""
        async with asyncio.TaskGroup() as tasks:
            for work in (*(slot.live for slot in self._slots), self._dispatcher.tell_those_who_wait):
                tasks.create_task(_again(work))

    async def stop(self) -> None:
        """Leaves nothing behind; the workers end with what keeps them alive."""
        self._reserve.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def run(self, request: Request, admitted: AdmittedRequest) -> AsyncGenerator[Response, None]:
        """Answers a request, if need be again and again from the start: what was told is not told again. Raises
        LightwellError."""
        way, keys = Way(), frozenset(models_of(request).values())
        while True:
            if self._dispatcher.gone:
                raise Unavailable("no worker answers; the log says more", reason="NO_WORKER", retry_seconds=GONE)
            slot = await self._dispatcher.acquire(admitted, keys)
            end, client, answered = slot.end, slot.client, False
            try:
                if client is None:
                    raise Lost("it ended at the same moment")
                async with aclosing(client.run(request, admitted)) as answers:
                    async for response in answers:
                        answered = True
                        if _step(response) is None or way.is_new(_step(response) or 0):
                            yield response
                return
            except Lost as lost:
                _judge(admitted, await self._ended(end, lost))
            finally:
                slot.leave(admitted, answered)
                self._dispatcher.assign()
            self._metrics.repeated.labels(admitted.call.method).inc()
            log.warning("begun again", extra={"fields": {"request_id": admitted.call.id, "suspect": admitted.suspect}})
            way.again()

    async def query(self, rpc: str, request: Any, admitted: AdmittedRequest) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """What the worker answers that has least to do, and the model if it is about one. If it ends before, another is
        asked. Raises LightwellError."""
        query = queries()[rpc]
        keys = query.keys(request)
        while True:
            self._dispatcher.expect()
            able = [slot for slot in self._slots if keys <= slot.models]
            for slot in sorted(able, key=lambda slot: slot.backlog):
                if slot.client is None:
                    continue
                admitted.attempts, answered = admitted.attempts + 1, False
                try:
                    async with aclosing(slot.client.query(query, request, admitted)) as answers:
                        async for response in answers:
                            answered = True
                            yield response
                    return
                except Lost:
                    # A caller who has heard a part must not hear it again; and a call may be what ends workers.
                    if answered or admitted.attempts > CRASHES:
                        raise Unavailable("the worker that was answering has ended; ask again") from None
            await self._dispatcher.change()

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Has one worker load a version, and the others when that has gone well: a model may end who loads it. Raises
        `Refused`."""
        key = (name, version)
        while not self._listening:  # who listens later loads it of its own accord, and would load it twice
            self._dispatcher.expect()
            await self._dispatcher.change()
        self._strikes.pop(key, None)
        first, described = await self._first(key)
        self._desired[key] = None
        others = (slot.load(key) for slot in self._slots if slot is not first)
        await asyncio.gather(*others, return_exceptions=True)  # who cannot is not asked; the log has the reason
        return described

    async def _first(self, key: Key) -> tuple[WorkerSlot, models.GetModelResponse]:
        """Has the worker that has least to do load a version."""
        while True:
            self._dispatcher.expect()
            for slot in sorted(self._slots, key=lambda slot: (slot.loads, slot.backlog)):
                with contextlib.suppress(Lost):
                    return slot, await slot.load(key)
            await self._dispatcher.change()

    async def unload(self, name: str, version: str) -> None:
        """Has all workers let go of a version."""
        self._desired.pop((name, version), None)
        await asyncio.gather(*(slot.unload((name, version)) for slot in self._slots))

    def attained(self) -> Mapping[int, float]:
        """Device seconds that requests have used in the attempt under way, as of the last look at their workers."""
        return {number: seconds for slot in self._slots for number, seconds in slot.attained.items()}

    def statuses(self) -> list[admin.WorkerStatus]:
        """How each worker is."""
        return [slot.status() for slot in self._slots]

    def scraped(self) -> Iterator[Metric]:
        """The metrics of the workers that answer; asked from another thread than the loop's."""
        texts = asyncio.run_coroutine_threadsafe(self._scraped(), self._loop).result(2 * PATIENCE)
        for worker, text in texts.items():
            for family in text_string_to_metric_families(text):
                family.samples = [s._replace(labels={"worker": worker, **s.labels}) for s in family.samples]
                yield family

    async def _scraped(self) -> Mapping[str, str]:
        clients = {str(slot.number): slot.client for slot in self._slots if slot.client is not None}
        texts = await asyncio.gather(*(client.metrics(PATIENCE) for client in clients.values()), return_exceptions=True)
        return {name: text for name, text in zip(clients, texts, strict=True) if isinstance(text, str)}

    async def _ended(self, end: asyncio.Future[End], lost: Lost) -> End:
        """How a worker ended that cannot be reached any more."""
        try:
            async with asyncio.timeout(2 * self._health):
                return await asyncio.shield(end)
        except TimeoutError:
            log.error("a worker lives and cannot be reached: %s", lost)
            raise Internal("internal error; the server's log has the details") from lost


async def _again(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does what never ends, and begins anew if it fails."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("the gateway has failed at what it does all the time, and begins again")
        await asyncio.sleep(PAUSE)


def _step(response: Response) -> int | None:
    """How far progress tells that a request is; None of a result."""
    if isinstance(response, explain.ExplainProgress):
        return response.passes_done
    return response.step if isinstance(response, synthesize.Progress) else None


def _judge(admitted: AdmittedRequest, end: End) -> None:
    """Whether a request had a part in the end of its worker. Raises `Aborted` for one under which two have ended while
    it was alone. One that was at work when a worker was killed from outside is taken for innocent the first time, and
    so is one that was there, between two steps or before its first, when a worker crashed."""
    admitted.near += end.crashed
    if admitted.number not in end.at_work and not (end.crashed and admitted.near > 1):
        return
    alone = end.held == {admitted.number}
    if end.crashed:
        admitted.crashes += alone
        admitted.suspect = True
    else:
        admitted.kills += 1
        admitted.crashes += alone and admitted.suspect
        admitted.suspect = admitted.kills > 1 or admitted.suspect
    if admitted.crashes >= CRASHES:
        raise Aborted(
            f"the request has ended the worker that ran it alone, {CRASHES} times ({end.why}); it is not run again",
            reason="POISONED",
        )


def _launch_arguments(settings: Settings) -> dict[str, Any]:
    """What worker processes are told: the settings as they were read once, and a fair share of the processors."""
    share = max(1, processors() // len(settings.owned))
    threads = settings.threads or (share if len(settings.owned) > 1 else 0)
    return {"settings": settings.model_copy(update={"threads": threads})}
