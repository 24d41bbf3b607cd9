"""The worker processes: one queue for all of them, each request to the least loaded worker. A request whose worker ends
is run again."""

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
"""Most bytes of the path of the folder with the sockets: a socket's own path has 107 at most."""
PAUSE = 1.0
"""Seconds before a failed task of the gateway is started again."""
CRASHES = 2
"""Workers that may end while they run the same request alone."""


class Pool:
    """One worker process for each device of the settings."""

    def __init__(self, settings: Settings, metrics: GatewayMetrics | None = None) -> None:
        self._metrics = metrics or GatewayMetrics()
        self._folder = Path(tempfile.mkdtemp(prefix="lightwell-"))
        if len(bytes(self._folder)) > LONGEST_FOLDER:
            raise ValueError(f"TMPDIR: {self._folder} is too long a path for sockets; take a shorter one")
        self._health = settings.worker_health_seconds
        self._desired: dict[Key, None] = {}
        FORKING.submit(int).result()  # starts its thread
        self._reserve = Reserve()
        self._dispatcher = Dispatcher(
            2 * settings.max_rows, self._metrics
        )  # a full step in execution, and the next one queued
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
        """How many workers have a model loaded and serve."""
        return self._dispatcher.workers

    @property
    def warm(self) -> bool:
        """Whether one serves every model that can load."""
        return any(slot.ready for slot in self._slots)

    def answers(self, name: str, version: str) -> bool:
        """Whether a worker has loaded it."""
        return any((name, version) in slot.models for slot in self._slots)

    @property
    def _listening(self) -> bool:
        """Whether there are workers, and all of them accept calls."""
        living = [slot for slot in self._slots if slot.pid]
        return bool(living) and all(slot.client for slot in living)

    async def supervise(self) -> None:
        """Keeps the workers alive until it is cancelled. Each task is restarted on its own if it fails."""
        async with asyncio.TaskGroup() as tasks:
            for work in (*(slot.live for slot in self._slots), self._dispatcher.fail_waiting):
                tasks.create_task(_again(work))

    async def stop(self) -> None:
        """Removes the folder and the reserve; the workers end with `supervise`."""
        self._reserve.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def run(self, request: Request, admitted: AdmittedRequest) -> AsyncGenerator[Response, None]:
        """Runs a request, again from the start if its worker ends; progress that was delivered is not repeated. Raises
        LightwellError."""
        way, keys = Way(), frozenset(models_of(request).values())
        while True:
            self._check_workers()
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

    def _check_workers(self) -> None:
        """Raises Unavailable if there has been no worker for so long that nothing waits for one."""
        if self._dispatcher.gone:
            raise Unavailable("no worker answers; the log says more", reason="NO_WORKER", retry_seconds=GONE)

    async def query(self, rpc: str, request: Any, admitted: AdmittedRequest) -> AsyncGenerator[Message, None]:  # noqa: ANN401
        """Runs a query on the least loaded worker that has its model, if it names one. If the worker ends before it has
        answered, another one runs it. Raises LightwellError."""
        query = queries()[rpc]
        keys = query.keys(request)
        while True:
            self._check_workers()
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
                    # A response that was delivered must not be repeated; and the query itself may crash workers.
                    if answered or admitted.attempts > CRASHES:
                        raise Unavailable("the worker that was answering has ended; ask again") from None
            await self._dispatcher.change()

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version on one worker, and on the others if that succeeds, because a model may crash its worker.
        Raises `Refused`."""
        key = (name, version)
        while not self._listening:  # a worker that listens later loads it by itself, and would load it twice
            self._dispatcher.expect()
            await self._dispatcher.change()
        self._strikes.pop(key, None)
        first, described = await self._first(key)
        self._desired[key] = None
        others = (slot.load(key) for slot in self._slots if slot is not first)
        await asyncio.gather(*others, return_exceptions=True)  # failures are logged
        return described

    async def _first(self, key: Key) -> tuple[WorkerSlot, models.GetModelResponse]:
        """Loads a version on the least loaded worker."""
        while True:
            self._dispatcher.expect()
            for slot in sorted(self._slots, key=lambda slot: (slot.loads, slot.backlog)):
                with contextlib.suppress(Lost):
                    return slot, await slot.load(key)
            await self._dispatcher.change()

    async def unload(self, name: str, version: str) -> None:
        """Unloads a version on all workers."""
        self._desired.pop((name, version), None)
        await asyncio.gather(*(slot.unload((name, version)) for slot in self._slots))

    def attained(self) -> Mapping[int, float]:
        """Device seconds that requests have used in the current attempt, as last reported by their workers."""
        return {number: seconds for slot in self._slots for number, seconds in slot.attained.items()}

    def statuses(self) -> list[admin.WorkerStatus]:
        """The status of each worker."""
        return [slot.status() for slot in self._slots]

    def scraped(self) -> Iterator[Metric]:
        """The metrics of the workers that respond. Call it from another thread than the event loop's."""
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
    """Runs a task that should not end; restarts it if it does."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("the gateway has failed at what it does all the time, and begins again")
        await asyncio.sleep(PAUSE)


def _step(response: Response) -> int | None:
    """The position of a progress message; None for a result."""
    if isinstance(response, explain.ExplainProgress):
        return response.passes_done
    return response.step if isinstance(response, synthesize.Progress) else None


def _judge(admitted: AdmittedRequest, end: End) -> None:
    """Decides whether a request may have caused the end of its worker. Raises `Aborted` if two workers have ended while
    they ran it alone. The first time, a request is not suspected if it executed when its worker was killed from
    outside, or if it was held but not executing when its worker crashed."""
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
    """The launch arguments of workers: the settings as the gateway has read them, and an equal share of the
    processors."""
    share = max(1, processors() // len(settings.owned))
    threads = settings.threads or (share if len(settings.owned) > 1 else 0)
    return {"settings": settings.model_copy(update={"threads": threads})}
