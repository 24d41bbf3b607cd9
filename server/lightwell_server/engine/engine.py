"""One device and its thread: take a step, answer it, resume each job, back in line."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightwell_server.contract.ask import Answer, Ask, Part, Work
from lightwell_server.engine.run import CHUNK, Failed, Passed, Run
from lightwell_server.engine.scheduler import Scheduler, Slice, Take, Ticket
from lightwell_server.errors import (
    DeadlineExceeded,
    Internal,
    LightwellError,
    OutOfMemory,
    Overloaded,
    Unavailable,
    ruinous,
)
from lightwell_server.observability.metrics import DeviceMetrics
from lightwell_server.threads import single_threaded_pool

log = logging.getLogger(__name__)

DUE = 0.05
"""Seconds before its deadline from which on a caller that leaves is called late: its own clock has run out."""
OWN = 0.7
"""Of a step's time on processors: what the thread that runs it must have had of one, or others were at work there."""
Answering = Callable[[Any, Sequence[Part]], list[Answer]]
Fitting = Callable[[Any, Ask], int | None]


class Engine:
    """Owns a device. `answer(model, parts)` answers parts of Asks with equal keys in one device step; `fitting(model,
    ask)` says how many rows like an Ask's fit into a step (None: any number), or raises what its caller is told.
    `watch(jobs)` is told which jobs run from now on, on the device or beside it, so that it is known whose doing it was
    if the process ends; `failed()` is called if the device's thread ends by a fault, before any job is told. A worker
    that is left open ends with the interpreter. With `processors` the device is the machine's own ones, and others may
    be at work there, too."""

    def __init__(
        self,
        answer: Answering,
        max_jobs: int = 256,
        max_rows: int = 32,
        max_seconds: float = 0.1,
        name: str = "device",
        fitting: Fitting = lambda model, ask: None,
        watch: Callable[[Collection[Run]], object] = lambda jobs: None,
        failed: Callable[[], object] = lambda: None,
        processors: bool = False,
        metrics: DeviceMetrics | None = None,
    ) -> None:
        self._metrics = metrics or DeviceMetrics()
        self._processors = processors
        self._answer, self._fitting, self._watch, self._failed = answer, fitting, watch, failed
        self._max_jobs = max_jobs
        self._scheduler = Scheduler(max_rows, max_seconds)
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._jobs: set[Run] = set()
        self._working: set[Run] = set()
        self._open, self._leaving = True, False
        self._beside = single_threaded_pool(2, f"{name}-work")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _left_open.add(self)

    @property
    def jobs(self) -> Collection[Run]:
        """Jobs that are not over."""
        return tuple(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether jobs are taken and the thread runs."""
        return self._open and self._thread.is_alive()

    def seconds(self, model: Any, ask: Ask, inputs: Mapping[str, Tensor]) -> float | None:  # noqa: ANN401
        """Device seconds that an Ask would take, from what its rows have cost before; None if none were run."""
        rate = self._scheduler.seconds(_key(model, ask, inputs))
        return None if rate is None else rate * ask.count

    def submit(self, job: Run) -> None:
        """Takes a job; it returns at once. Raises `Overloaded` if there are too many, `Unavailable` when stopping, and
        in a process forked from the worker's own."""
        if self._open and not self._thread.is_alive():
            raise Unavailable(
                "the engine's thread has not come along into this forked process; make a `Local` in each process, or"
                " start processes by spawn"
            )
        with self._wake:
            if not self._open:
                raise Unavailable("the server is stopping; ask another one")
            if len(self._jobs) >= self._max_jobs:
                raise Overloaded(f"{self._max_jobs} requests are in progress already; try again later")
            self._jobs.add(job)
            self._inbox.append(lambda: self._resume(job, None))
            self._wake.notify()

    def cancel(self, job: Run) -> None:
        """The caller is gone: no step is begun for the job any more. Safe from any thread and at any time."""
        job.gone = True
        self._post(lambda: self._over(job, None))

    def stop(self) -> None:
        """Takes no more jobs, fails those that are left, and ends the thread."""
        self.end()
        self._thread.join()

    def end(self) -> None:
        """Like `stop`, but the thread ends by itself, after its present step. Safe from any thread and at any time,
        also when garbage is collected."""
        if self.alive:
            with self._wake:
                self._open = False
                self._wake.notify()

    def leave(self) -> None:
        """Like `end`, when the interpreter ends. Whoever still waits is a daemon thread, and is not told: it could
        print the error at most."""
        self._leaving = True
        self.end()

    def join(self, seconds: float) -> None:
        """Waits until the thread has ended, or so long."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._loop()
        except Exception:
            log.critical("the engine's thread has failed", exc_info=True)
            self._failed()
        with self._wake:
            self._open = False
        self._beside.shutdown(wait=False, cancel_futures=True)
        for job in () if self._leaving else self.jobs:
            self._over(job, Failed(Unavailable("the server stopped before the request was finished")))

    def _loop(self) -> None:
        while self._open:
            with self._wake:
                calls, self._inbox = self._inbox, deque()
            for call in calls:
                call()
            take = self._scheduler.take(time.monotonic())
            for ticket in take.dropped:
                self._drop(ticket)
            self._metrics.queue_rows.set(self._scheduler.waiting_rows)
            if take.slices:
                self._step(take)
            elif not take.dropped:
                with self._wake:
                    self._wake.wait_for(lambda: self._inbox or not self._open, timeout=1.0)

    def _step(self, take: Take) -> None:
        """Answers one step. A step that fails is taken apart, so that only the guilty fail."""
        began, worked = time.monotonic(), time.thread_time()
        try:
            first = _job(take.slices[0])
            assert first.ask is not None
            with self._at_work({_job(s) for s in take.slices}):
                parts = [_job(s).part(s.start, s.stop) for s in take.slices]
                answers = self._answer(first.models[first.ask.model], parts)
        except OutOfMemory as error:
            self._metrics.memory_splits.inc()
            for job in (_job(s) for s in take.slices if _job(s).reproducible):
                job.exceptions.append(f"a chunk of {take.rows} rows was halved for want of memory")
            if not self._scheduler.shrink(take, time.monotonic()):
                self._over(_job(take.slices[0]), Failed(error))
            return
        except Exception as error:
            if ruinous(error):
                raise
            self._apart(take, error)
            return
        ended = time.monotonic()
        seconds = ended - began
        busy = self._processors and time.thread_time() - worked < OWN * seconds
        self._count(take, seconds)
        for part in take.slices:
            _job(part).took((part.start, part.stop), part.ticket.since, began, ended)
        self._scheduler.charge(take, seconds, ended, busy)
        for part, answer in zip(take.slices, answers, strict=True):
            self._collect(part, answer, seconds * (part.stop - part.start) / take.rows)

    @contextmanager
    def _at_work(self, jobs: set[Run]) -> Iterator[None]:
        """Tells who runs meanwhile. After a fault that ends the process it stays known who it was."""
        self._watch(jobs | self._working)
        try:
            yield
        except Exception as error:
            if not ruinous(error):
                self._watch(self._working)
            raise
        self._watch(self._working)

    def _apart(self, take: Take, error: Exception) -> None:
        if len(take.slices) > 1:
            for part in take.slices:
                self._step(Take([part]))
        else:
            self._over(_job(take.slices[0]), Failed(_told(error, _job(take.slices[0]))))

    def _collect(self, part: Slice, answer: Answer, seconds: float) -> None:
        job = _job(part)
        job.left = part.ticket.rows - part.stop
        self._metrics.device_seconds.labels(job.method).inc(seconds)
        if job.watched and not job.gone and part.ticket.rows > 1:
            job.tell(Passed(part.stop, part.ticket.rows))
        try:
            whole = job.collect(answer, not job.left)
        except Exception as error:  # many rows' answers may not fit into memory together
            self._over(job, Failed(_told(error, job)))
            return
        if whole is not None:
            self._resume(job, whole)

    def _resume(self, job: Run, reply: Any) -> None:  # noqa: ANN401
        if job.over or job.gone:
            self._over(job, None)
            return
        try:
            with self._at_work({job}):
                step = job.resume(reply)
            if step is not None:
                self._wait(job, step)
        except Exception as error:
            if ruinous(error):
                raise
            self._over(job, Failed(_told(error, job)))
            return
        if step is None:
            self._over(job, None)

    def _wait(self, job: Run, step: Ask | Work) -> None:
        """Puts a job where its next answer comes from."""
        if isinstance(step, Work):
            self._working.add(job)
            self._watch(self._working)
            future = self._submitted(step)
            future.add_done_callback(lambda done: self._post(lambda: self._worked(job, done)))
            return
        if step.count < 1:
            raise ValueError("an Ask has at least one row")
        model, now = job.models[step.model], time.monotonic()
        key, most = _key(model, step, job.inputs), self._fitting(model, step)
        bare = self._scheduler.bare_seconds(key, now) * step.count
        job.left = step.count
        if now + bare > job.deadline > now:
            self._spare(job)
            raise DeadlineExceeded(
                f"the request needs {bare:.1f} more seconds of the device at least and has {job.deadline - now:.1f};"
                " give it more time or ask for less",
                reason="DEADLINE_TOO_SHORT",
            )
        alone, chunk = job.reproducible or not step.shares, CHUNK if job.reproducible else None
        if chunk is not None and most is not None and most < min(chunk, step.count):
            job.exceptions.append(f"steps had {most} rows instead of {chunk} for want of memory")
        job.ticket = Ticket(job, key, step.count, alone, chunk, most)
        self._scheduler.add(job.ticket, now)

    def _submitted(self, work: Work) -> Future[Any]:
        try:
            return self._beside.submit(work.function, *work.arguments)
        except RuntimeError:  # pools take nothing more once the main thread is over, whatever other threads still do
            raise Unavailable("the process is ending; keep its main thread until all requests are answered") from None

    def _worked(self, job: Run, done: Future[Any]) -> None:
        self._working.discard(job)
        self._watch(self._working)
        error = done.exception()
        if error is not None:
            self._over(job, Failed(_told(error, job)))
        elif job.deadline <= time.monotonic():
            self._late(job)
        else:
            self._resume(job, done.result())

    def _drop(self, ticket: Ticket) -> None:
        self._late(_owner(ticket))

    def _late(self, job: Run) -> None:
        """Ends a job whose caller is too late, or gone."""
        if not (job.over or job.gone):
            self._spare(job)
        self._over(job, Failed(_late()))

    def _over(self, job: Run, event: Failed | None) -> None:
        if job.gone and not job.over:
            self._spare(job)
        if job.ticket is not None:
            self._scheduler.leave(job.ticket)
        if event is not None or job.gone:
            job.finish(event or Failed(_late()))
        self._jobs.discard(job)

    def _spare(self, job: Run) -> None:
        """Counts a job that is dropped, and what it had still planned for the device."""
        gone = job.gone and job.deadline > time.monotonic() + DUE
        self._metrics.dropped.labels("gone" if gone else "late").inc()
        if job.done:
            saved = job.attained * (1 - job.done) / job.done
        else:
            ask = job.ask
            rate = self._scheduler.seconds(_key(job.models[ask.model], ask, job.inputs)) if ask is not None else None
            saved = (rate or 0.0) * job.left
        self._metrics.saved_seconds.labels(job.method).inc(saved)

    def _count(self, take: Take, seconds: float) -> None:
        self._metrics.steps.inc()
        self._metrics.step_seconds.observe(seconds)
        self._metrics.step_rows.observe(take.rows)

    def _post(self, call: Callable[[], None]) -> None:
        if not self.alive:  # nobody listens; and in a forked process the lock may be held for ever
            return
        with self._wake:
            self._inbox.append(call)
            self._wake.notify()


PATIENCE = 60.0
"""Seconds that the interpreter waits for a step when it ends."""
_left_open: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """Ends the workers that were left open before the interpreter is taken apart: a thread that comes out of a tensor's
    operation then would be unwound through C++ that allows no unwinding, and the process would end by an abort."""
    workers = list(_left_open)
    for worker in workers:
        worker.leave()
    for worker in workers:
        worker.join(PATIENCE)


def _key(model: Any, ask: Ask, inputs: Mapping[str, Tensor]) -> Hashable:  # noqa: ANN401
    """What tells the steps of Asks apart."""
    return weakref.ref(model), ask.key, tuple(value.shape for value in inputs.values())


def _owner(ticket: Ticket) -> Run:
    assert isinstance(ticket.job, Run)
    return ticket.job


def _job(part: Slice) -> Run:
    return _owner(part.ticket)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request could not be finished before its deadline")


def _told(error: BaseException, job: Run) -> LightwellError:
    """An error as a caller may hear of it: a bug's trace goes to the log."""
    if isinstance(error, LightwellError):
        return error
    log.error("%s failed", job.method, exc_info=error, extra={"fields": {"request_id": job.name}})
    return Internal("internal error; the server's log has the details")
