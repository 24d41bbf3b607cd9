"""Helpers for threads other than the device's and the event loop's."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")


def single_threaded_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Threads whose tensor operations use no further threads. OpenMP keeps a team for each thread that ever needed one,
    and with several teams alive the threads at work synchronise more slowly: a device step on the CPU then takes a
    tenth longer."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=alone)


async def aside(name: str, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
    """Runs a function on a new thread, which ends with it. If the task is cancelled, the thread runs on alone. It does
    not delay the exit of the process, because the function may wait for a disk that never responds."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    future.set_running_or_notify_cancel()
    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


async def iterated(pool: ThreadPoolExecutor, values: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """The values of a generator, which runs on a pool's threads. If the task is cancelled, it waits for the generator's
    next value, and then closes the generator."""
    try:
        while (value := await _finished(pool.submit(next, values, None))) is not None:
            yield value
    finally:
        values.close()


async def _finished(work: Future[T]) -> T:
    """The result of work on a thread. If the task is cancelled, it waits until the work has ended, and ignores its
    result."""
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        await asyncio.gather(asyncio.wrap_future(work), return_exceptions=True)
        raise


def give_back() -> None:
    """Returns free memory of this process to the system, where the C library has a call for that. Each thread has a
    heap of its own, which otherwise keeps as much as the largest picture that it has decoded."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # in glibc
    if trim is not None:
        trim(0)


def alone() -> None:
    """Makes tensor operations of the calling thread use no further threads."""
    torch.get_num_threads()  # sets the thread's number of threads, once; the next line overrides it
    threadpool_limits(limits=1, user_api="openmp")
