"""One device and its thread, in a loop: take a step, compute it, resume each run, queue the run's next Ask."""

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

from lightwell_server.contract import Answer, Ask, Part, Work
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
"""If a caller leaves within this many seconds of its deadline, the run counts as late, not as cancelled."""
OWN = 0.7
"""A step counts as disturbed by other processes if its thread had less than this share of the step's time on a
processor.
"""
Answering = Callable[[Any, Sequence[Part]], list[Answer]]
Fitting = Callable[[Any, Ask], int | None]


class Engine:
    """Owns a device. `answer(model, parts)` answers parts of Asks with equal keys in one device step. `fitting(model,
    ask)` returns how many rows like those of an Ask fit into a step (None: any number), or raises the error that its
    caller gets. `watch(runs)` is called with the runs that execute from now on, on the device or next to it, so that a
    crash of the process can be attributed. `failed()` is called if the device's thread fails, before any run ends. An
    engine that is not stopped ends with the interpreter. With `processors` the device is the machine's CPU, which other
    processes may use too."""

    def __init__(
        self,
        answer: Answering,
        max_runs: int = 256,
        max_rows: int = 32,
        max_seconds: float = 0.1,
        name: str = "device",
        fitting: Fitting = lambda model, ask: None,
        watch: Callable[[Collection[Run]], object] = lambda runs: None,
        failed: Callable[[], object] = lambda: None,
        processors: bool = False,
        metrics: DeviceMetrics | None = None,
    ) -> None:
        self._metrics = metrics or DeviceMetrics()
        self._processors = processors
        self._answer, self._fitting, self._watch, self._failed = answer, fitting, watch, failed
        self._max_runs = max_runs
        self._scheduler = Scheduler(max_rows, max_seconds)
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._runs: set[Run] = set()
        self._working: set[Run] = set()
        self._open, self._leaving = True, False
        self._work_threads = single_threaded_pool(2, f"{name}-work")
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()
        _left_open.add(self)

    @property
    def runs(self) -> Collection[Run]:
        """Runs that are not over."""
        return tuple(self._runs)

    @property
    def alive(self) -> bool:
        """Whether runs are accepted and the thread runs."""
        return self._open and self._thread.is_alive()

    def seconds(self, model: Any, ask: Ask, inputs: Mapping[str, Tensor]) -> float | None:  # noqa: ANN401
        """Device seconds that an Ask would take, from what its rows have cost before. None if none have run."""
        rate = self._scheduler.seconds(_key(model, ask, inputs))
        return None if rate is None else rate * ask.count

    def submit(self, run: Run) -> None:
        """Accepts a run and returns at once. Raises `Overloaded` if there are too many, and `Unavailable` when stopping
        or in a forked process."""
        if self._open and not self._thread.is_alive():
            raise Unavailable(
                "the engine's thread has not come along into this forked process; make a `Local` in each process, or"
                " start processes by spawn"
            )
        with self._wake:
            if not self._open:
                raise Unavailable("the server is stopping; ask another one")
            if len(self._runs) >= self._max_runs:
                raise Overloaded(f"{self._max_runs} requests are in progress already; try again later")
            self._runs.add(run)
            self._inbox.append(lambda: self._resume(run, None))
            self._wake.notify()

    def cancel(self, run: Run) -> None:
        """Cancels a run whose caller has disconnected: no further step is begun. Safe from any thread and at any
        time."""
        run.gone = True
        self._post(lambda: self._over(run, None))

    def stop(self) -> None:
        """Accepts no more runs, fails those that are left, and ends the thread."""
        self.end()
        self._thread.join()

    def end(self) -> None:
        """Like `stop`, but does not wait: the thread ends after its current step. Safe from any thread and at any time,
        also during garbage collection."""
        if self.alive:
            with self._wake:
                self._open = False
                self._wake.notify()

    def leave(self) -> None:
        """Like `end`, for the exit of the interpreter. Runs that are left get no event: the threads that wait for them
        are daemon threads."""
        self._leaving = True
        self.end()

    def join(self, seconds: float) -> None:
        """Waits until the thread has ended, for at most `seconds`."""
        self._thread.join(seconds)

    def _live(self) -> None:
        try:
            self._loop()
        except Exception:
            log.critical("the engine's thread has failed", exc_info=True)
            self._failed()
        with self._wake:
            self._open = False
        self._work_threads.shutdown(wait=False, cancel_futures=True)
        for run in () if self._leaving else self.runs:
            self._over(run, Failed(Unavailable("the server stopped before the request was finished")))

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
        """Computes one step. If a step fails, its parts are repeated one by one, so that only the faulty runs fail."""
        began, worked = time.monotonic(), time.thread_time()
        try:
            first = _run_of(take.slices[0])
            assert first.ask is not None
            with self._at_work({_run_of(s) for s in take.slices}):
                parts = [_run_of(s).part(s.start, s.stop) for s in take.slices]
                answers = self._answer(first.models[first.ask.model], parts)
        except OutOfMemory as error:
            self._metrics.memory_splits.inc()
            for run in (_run_of(s) for s in take.slices if _run_of(s).reproducible):
                run.exceptions.append(f"a chunk of {take.rows} rows was halved for want of memory")
            if not self._scheduler.shrink(take, time.monotonic()):
                self._over(_run_of(take.slices[0]), Failed(error))
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
            _run_of(part).took((part.start, part.stop), part.ticket.since, began, ended)
        self._scheduler.charge(take, seconds, ended, busy)
        for part, answer in zip(take.slices, answers, strict=True):
            self._collect(part, answer, seconds * (part.stop - part.start) / take.rows)

    @contextmanager
    def _at_work(self, runs: set[Run]) -> Iterator[None]:
        """Reports the executing runs to `watch`. After a fault that ends the process the report stays in place."""
        self._watch(runs | self._working)
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
            self._over(_run_of(take.slices[0]), Failed(_caller_error(error, _run_of(take.slices[0]))))

    def _collect(self, part: Slice, answer: Answer, seconds: float) -> None:
        run = _run_of(part)
        run.left = part.ticket.rows - part.stop
        self._metrics.device_seconds.labels(run.method).inc(seconds)
        if run.watched and not run.gone and part.ticket.rows > 1:
            run.tell(Passed(part.stop, part.ticket.rows))
        try:
            whole = run.collect(answer, not run.left)
        except Exception as error:  # the answer to many rows may not fit into memory
            self._over(run, Failed(_caller_error(error, run)))
            return
        if whole is not None:
            self._resume(run, whole)

    def _resume(self, run: Run, reply: Any) -> None:  # noqa: ANN401
        if run.over or run.gone:
            self._over(run, None)
            return
        try:
            with self._at_work({run}):
                step = run.resume(reply)
            if step is not None:
                self._wait(run, step)
        except Exception as error:
            if ruinous(error):
                raise
            self._over(run, Failed(_caller_error(error, run)))
            return
        if step is None:
            self._over(run, None)

    def _wait(self, run: Run, step: Ask | Work) -> None:
        """Queues the run's Ask, or starts its Work."""
        if isinstance(step, Work):
            self._working.add(run)
            self._watch(self._working)
            future = self._submitted(step)
            future.add_done_callback(lambda done: self._post(lambda: self._worked(run, done)))
            return
        if step.count < 1:
            raise ValueError("an Ask has at least one row")
        model, now = run.models[step.model], time.monotonic()
        key, most = _key(model, step, run.inputs), self._fitting(model, step)
        bare = self._scheduler.bare_seconds(key, now) * step.count
        run.left = step.count
        if now + bare > run.deadline > now:
            self._spare(run)
            raise DeadlineExceeded(
                f"the request needs {bare:.1f} more seconds of the device at least and has {run.deadline - now:.1f};"
                " give it more time or ask for less",
                reason="DEADLINE_TOO_SHORT",
            )
        alone, chunk = run.reproducible or not step.shares, CHUNK if run.reproducible else None
        if chunk is not None and most is not None and most < min(chunk, step.count):
            run.exceptions.append(f"steps had {most} rows instead of {chunk} for want of memory")
        run.ticket = Ticket(run, key, step.count, alone, chunk, most)
        self._scheduler.add(run.ticket, now)

    def _submitted(self, work: Work) -> Future[Any]:
        try:
            return self._work_threads.submit(work.function, *work.arguments)
        except RuntimeError:  # pools accept no work once the main thread has ended, even while other threads run
            raise Unavailable("the process is ending; keep its main thread until all requests are answered") from None

    def _worked(self, run: Run, done: Future[Any]) -> None:
        self._working.discard(run)
        self._watch(self._working)
        error = done.exception()
        if error is not None:
            self._over(run, Failed(_caller_error(error, run)))
        elif run.deadline <= time.monotonic():
            self._late(run)
        else:
            self._resume(run, done.result())

    def _drop(self, ticket: Ticket) -> None:
        self._late(_owner(ticket))

    def _late(self, run: Run) -> None:
        """Ends a run that has passed its deadline, or whose caller has disconnected."""
        if not (run.over or run.gone):
            self._spare(run)
        self._over(run, Failed(_late()))

    def _over(self, run: Run, event: Failed | None) -> None:
        if run.gone and not run.over:
            self._spare(run)
        if run.ticket is not None:
            self._scheduler.leave(run.ticket)
        if event is not None or run.gone:
            run.finish(event or Failed(_late()))
        self._runs.discard(run)

    def _spare(self, run: Run) -> None:
        """Counts a dropped run, and the device time that it would still have used."""
        gone = run.gone and run.deadline > time.monotonic() + DUE
        self._metrics.dropped.labels("gone" if gone else "late").inc()
        if run.done:
            saved = run.attained * (1 - run.done) / run.done
        else:
            ask = run.ask
            rate = self._scheduler.seconds(_key(run.models[ask.model], ask, run.inputs)) if ask is not None else None
            saved = (rate or 0.0) * run.left
        self._metrics.saved_seconds.labels(run.method).inc(saved)

    def _count(self, take: Take, seconds: float) -> None:
        self._metrics.steps.inc()
        self._metrics.step_seconds.observe(seconds)
        self._metrics.step_rows.observe(take.rows)

    def _post(self, call: Callable[[], None]) -> None:
        if not self.alive:  # no thread reads the inbox; in a forked process the lock may never be released
            return
        with self._wake:
            self._inbox.append(call)
            self._wake.notify()


PATIENCE = 60.0
"""Seconds that the interpreter waits for a step when it exits."""
_left_open: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """Ends the engines that are still open before the interpreter shuts down. A thread that returned from a tensor
    operation after that would be unwound through C++ code that allows no unwinding, and the process would abort."""
    workers = list(_left_open)
    for worker in workers:
        worker.leave()
    for worker in workers:
        worker.join(PATIENCE)


def _key(model: Any, ask: Ask, inputs: Mapping[str, Tensor]) -> Hashable:  # noqa: ANN401
    """The batching key: Asks with equal keys may share a step."""
    return weakref.ref(model), ask.key, tuple(value.shape for value in inputs.values())


def _owner(ticket: Ticket) -> Run:
    assert isinstance(ticket.run, Run)
    return ticket.run


def _run_of(part: Slice) -> Run:
    return _owner(part.ticket)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request could not be finished before its deadline")


def _caller_error(error: BaseException, run: Run) -> LightwellError:
    """The error that a caller gets. The traceback of a bug goes to the log."""
    if isinstance(error, LightwellError):
        return error
    log.error("%s failed", run.method, exc_info=error, extra={"fields": {"request_id": run.name}})
    return Internal("internal error; the server's log has the details")
