"""The slot of one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import models_pb2 as models
from lightwell_server.descriptors import Reserve, room
from lightwell_server.errors import LightwellError, Refused
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.pool.client import Lost, WorkerClient
from lightwell_server.pool.journal import CrashJournal
from lightwell_server.requests.admitted import AdmittedRequest
from lightwell_server.requests.models import Key
from lightwell_server.resources import memory_kills
from lightwell_server.runtime.loading import Loading, Overdue

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Shortest and longest pause in seconds before a worker is restarted. It doubles each time that a worker has neither
answered a request nor lived longer than the longest pause."""
START = 120.0
"""Seconds in which a worker must listen, and respond while it lifts a model, which may hold the interpreter lock."""
LOOKED = 0.5
"""Seconds between two checks of a worker."""
STRIKES = 2
"""Workers that may end while they load the same model and no other."""
MODULE = "lightwell_server.pool.worker"
"""What a worker process runs: `main` of this module."""
FORKS = multiprocessing.get_context("forkserver")
"""Workers are forked from a process that has imported their modules: they start in a fraction of the time, and share
its memory."""
FORKS.set_forkserver_preload([MODULE])
FORKING = ThreadPoolExecutor(
    1, "forking", initializer=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
)
"""The thread that starts and joins processes, one at a time: both iterate over all child processes and must not run
concurrently. It is started early, because a failure to start it later would break the slot. It blocks SIGHUP, and its
processes inherit that: the signal is for the gateway, but a closed terminal sends it to all."""
OPENED = 16
"""Most files that starting a process opens. A start that fails half way would leave some of them open."""
UNTOLD = 255
"""The exit status of a process whose fork server has ended."""


def run(module: str, launch: dict[str, Any]) -> None:
    """A worker process, from its start to its end."""
    importlib.import_module(module).main(launch)


@dataclass(frozen=True)
class End:
    """How a worker ended: `why` in words; whether it `crashed`, or was ended from outside; which requests it `held`,
    and which of them executed (`at_work`)."""

    why: str
    crashed: bool
    held: frozenset[int]
    at_work: frozenset[int]


class WorkerSlot:
    """Starts a worker process, watches it, and starts the next one when it ends. `launch` are the arguments of a
    process, `desired` the models that it should have loaded. `strikes` counts the workers that ended while they loaded
    a model. `patience` are the timeouts of a worker's responses, of one step, and of one load. `changed()` is called
    when there may be more room. `reserve` is given back while a worker is started. While a worker runs, `client` is
    connected to it and `models` is what it has loaded. `requests` are those in progress, `loads` counts the versions
    that are still to be loaded."""

    def __init__(
        self,
        number: int,
        device: str,
        launch: dict[str, Any],
        folder: Path,
        patience: tuple[float, float, float],
        desired: Collection[Key],
        strikes: dict[Key, int],
        changed: Callable[[], object],
        reserve: Reserve,
        metrics: GatewayMetrics,
    ) -> None:
        self._metrics = metrics
        self.number, self.device = number, device
        self._launch, self._folder, self._changed = launch, folder, changed
        self._desired, self._strikes, self._reserve = desired, strikes, reserve
        self._health, self._longest_step, self._longest_load = patience
        self._written = folder / f"{number}.record"
        self._journal = CrashJournal(self._written)
        self.client: WorkerClient | None = None
        self.models: set[Key] = set()
        self.requests: dict[int, AdmittedRequest] = {}
        self.attained: dict[int, float] = {}
        self.state = admin.WORKER_STATE_ENDED
        self.restarts, self.last_end, self.pid, self._began = 0, "", 0, 0.0
        self.end: asyncio.Future[End] = asyncio.Future()
        self._answered = False
        self.loads = 0
        self._loading: set[Key] = set()
        self._turns, self._overdue = Loading(self._longest_load), ""
        self._one_by_one = asyncio.Lock()
        self._generations = itertools.count()

    @property
    def ready(self) -> bool:
        """Whether its worker serves every model that can load."""
        return self.state == admin.WORKER_STATE_READY

    @property
    def long(self) -> int:
        """How many of its requests may be long."""
        return sum(admitted.price.long for admitted in self.requests.values())

    @property
    def alone(self) -> bool:
        """Whether it runs a suspect."""
        return any(admitted.suspect for admitted in self.requests.values())

    @property
    def backlog(self) -> float:
        """Device seconds that its requests still need, as predicted."""
        return sum(admitted.left for admitted in self.requests.values())

    def status(self) -> admin.WorkerStatus:
        """Its status."""
        since, at_work = self._journal.read()
        return admin.WorkerStatus(
            number=self.number,
            state=self.state,
            pid=self.pid,
            device=self.device,
            up_seconds=time.monotonic() - self._began if self.pid else 0.0,
            restarts=self.restarts,
            last_end=self.last_end,
            jobs=len(self.requests),
            predicted_seconds=self.backlog,
            step_seconds=time.monotonic() - since if at_work else 0.0,
            alone=self.alone,
        )

    def enter(self, admitted: AdmittedRequest) -> None:
        """Assigns a request to it."""
        self.requests[admitted.number] = admitted
        admitted.worker = self.number
        admitted.attempts += 1

    def leave(self, admitted: AdmittedRequest, answered: bool) -> None:
        """Removes a request from it."""
        del self.requests[admitted.number]
        admitted.worker = None
        self._answered = self._answered or answered

    async def live(self) -> None:
        """Keeps a worker running until it is cancelled: starts the next one when one ends or cannot be started."""
        pause = FIRST_PAUSE
        for generation in self._generations:
            self.end, self._answered, self._began = asyncio.Future(), False, time.monotonic()
            async with contextlib.AsyncExitStack() as left:
                try:
                    ended = await self._life(self._folder / f"{self.number}-{generation}.sock", left)
                except Exception as error:  # any lack of resources: it is tried again
                    what = "looked after" if self.pid else "started"
                    log.exception("worker %d could not be %s", self.number, what)
                    ended = 0, f"it could not be {what}: {str(error) or type(error).__name__}", False
                end = self._ended(*ended)
            log.error("worker %d has ended: %s; it had %d requests", self.number, end.why, len(end.held))
            self.restarts, self.last_end = self.restarts + 1, end.why
            self._metrics.restarts.labels(str(self.number), "crashed" if end.crashed else "killed").inc()
            well = self._answered or time.monotonic() - self._began > LONGEST_PAUSE
            pause = FIRST_PAUSE if well else min(LONGEST_PAUSE, 2 * pause)
            await asyncio.sleep(pause)

    async def load(self, key: Key) -> models.GetModelResponse:
        """Loads a version on its worker when a load slot is free. Raises `Lost` and `Refused`. A load that takes too
        long ends its worker, for nothing else would stop it, and no other worker tries it."""
        self.loads += 1
        guilty = any(strikes < STRIKES for strikes in self._strikes.values())  # suspects load one by one
        try:
            async with self._one_by_one if guilty else contextlib.nullcontext():
                described = await self._loaded(key)
        finally:
            self.loads -= 1
        self._strikes.pop(key, None)
        self.models.add(key)
        self._changed()
        return described

    async def _loaded(self, key: Key) -> models.GetModelResponse:
        end = self.end
        try:
            async with self._turns.of("@".join(key)):
                client, end = self.client, self.end  # the worker may have changed meanwhile
                if client is None:
                    raise Lost("there is no worker now")
                if self._strikes.get(key, 0) >= STRIKES:
                    raise Refused("it has ended the worker that loaded it, or was loading for too long")
                self._loading.add(key)
                return await client.load(*key)
        except Lost:
            if key in self._loading:
                await asyncio.shield(end)  # its end reads what was being loaded
            raise
        except Overdue:
            self._strikes[key] = STRIKES
            if not end.done():
                self._overdue = f"it was loading {'@'.join(key)} for more than {self._longest_load:g} seconds"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            self._loading.discard(key)

    async def unload(self, key: Key) -> None:
        """Unloads a version on its worker."""
        self.models.discard(key)
        if self.client is not None:
            with contextlib.suppress(Lost):  # a worker that has ended has nothing loaded
                await self.client.unload(*key)

    async def _life(self, socket: Path, left: contextlib.AsyncExitStack) -> tuple[int, str, bool]:
        """Runs one worker, from its start to its end. Returns its exit status, why the gateway ended it (empty if it
        did not), and whether the system has killed a process for lack of memory meanwhile. Resources in `left` are
        released after the end is reported. Raises what prevents it from being started or watched."""
        with contextlib.ExitStack() as starting:
            starting.enter_context(self._reserve.given_back())
            killed = memory_kills()
            self._folder.mkdir(mode=0o700, exist_ok=True)  # cleaners of temporary files may have removed it
            self._journal = CrashJournal(self._written)
            self._journal.clear()
            process = await self._started(socket)
            exited = asyncio.create_task(_exited(process))
            minding = asyncio.create_task(self._mind(socket, left, starting.close))
            try:
                await asyncio.wait([exited, minding], return_when=asyncio.FIRST_COMPLETED)
                why = "" if exited.done() else minding.result()
            finally:  # also when the slot is cancelled
                minding.cancel()
                process.kill()
                self.client = None
                code = await exited
                left.callback(process.close)
        with self._reserve.given_back():
            now = memory_kills()
        with contextlib.suppress(OSError):  # its folder may be gone
            socket.unlink()
        return code, why, killed is not None and now is not None and now > killed

    async def _started(self, socket: Path) -> BaseProcess:
        """A started process with its launch arguments."""
        launch = {"number": self.number, "device": self.device, "socket": str(socket), "record": str(self._written)}
        arguments = (MODULE, self._launch | launch)
        process = FORKS.Process(target=run, args=arguments, name=f"worker-{self.number}", daemon=True)
        await _forking(functools.partial(_start, process))
        self.pid, self.state = process.pid or 0, admin.WORKER_STATE_STARTING
        return process

    def _ended(self, code: int, why: str, memory: bool) -> End:
        """Records how a worker ended, and resolves `end` for those that wait for it. `memory`: the system has killed a
        process for lack of memory meanwhile."""
        _, at_work = self._journal.read()
        overdue, self._overdue = self._overdue, ""
        outside = -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) and not (why or memory)
        if overdue:  # the gateway has ended it: no request and no other model is to blame
            why, outside, at_work = overdue, True, frozenset()
        if not why:
            want = " for want of memory" if memory and -code == signal.SIGKILL else ""
            why = f"signal {_name(-code)}{want}" if code < 0 else f"exit status {code}"
        end = End(why, not outside, frozenset(self.requests), at_work & frozenset(self.requests))
        if not outside and self._loading:
            for key in self._loading:
                self._strikes[key] = self._strikes.get(key, 0) + (len(self._loading) == 1)
                log.error("worker %d has ended while it loaded %s@%s", self.number, *key)
        self.models, self.pid, self.state, self.attained = set(), 0, admin.WORKER_STATE_ENDED, {}
        self._journal.clear()
        self.end.set_result(end)
        self._changed()
        return end

    async def _mind(self, socket: Path, left: contextlib.AsyncExitStack, listening: Callable[[], object]) -> str:
        """Connects to a worker and watches it; returns why it must be replaced. `listening()` is called when it
        listens."""
        client = WorkerClient(socket)
        left.push_async_callback(client.close)  # the worker's end is reported first
        try:
            async with asyncio.timeout(START):
                await client.connected()
        except TimeoutError:
            return f"it did not listen within {START:.0f} seconds"
        listening()
        self.client = client
        filling = asyncio.create_task(self._fill())
        try:
            return await self._look_after(client)
        finally:
            filling.cancel()

    async def _fill(self) -> None:
        """Loads what a new worker should have. A refused model is left out. A model that ends the worker is not retried
        here."""
        for key in list(self._desired):
            try:
                await self.load(key)
            except Refused:
                continue
            except Lost:
                return
            if key not in self._desired:
                await self.unload(key)  # it was unloaded on the others meanwhile
        self.state = admin.WORKER_STATE_READY
        self._changed()

    async def _look_after(self, client: WorkerClient) -> str:
        well = time.monotonic()
        while True:
            patience = START if self._loading else self._health
            try:
                self.attained = dict(await client.attained(patience))
                well = time.monotonic()
            except (Lost, LightwellError):
                if time.monotonic() - well >= patience:
                    return f"it did not answer for {patience:.0f} seconds"
            since, at_work = self._journal.read()
            if at_work and time.monotonic() - since > self._longest_step:
                return f"its device was at one step for {self._longest_step:.0f} seconds"
            await asyncio.sleep(LOOKED)


async def _exited(process: BaseProcess) -> int:
    """Waits for a process's end. Returns its exit status, or the negative number of the signal that ended it. A process
    whose fork server has ended is killed: nothing would report its end."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(process.sentinel)
    await _forking(process.join)
    if process.exitcode != UNTOLD:
        return process.exitcode or 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, signal.SIGKILL)
    return -signal.SIGKILL


async def _forking(call: Callable[[], object]) -> None:
    """Starts or joins a process."""
    await asyncio.get_running_loop().run_in_executor(FORKING, call)


def _start(process: BaseProcess) -> None:
    room(OPENED)
    process.start()


def _name(number: int) -> str:
    return signal.Signals(number).name if number in {*signal.Signals} else str(number)
