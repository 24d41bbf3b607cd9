"""Threads beside the device."""

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
    """Threads whose tensor operations use no further threads. OpenMP keeps a team for each thread that ever asked for
    one, and with several teams alive those at work wait for each other in a slower way: a device step on the CPU then
    takes a tenth longer."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=alone)


async def aside(name: str, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
    """Runs a function on a thread of its own, which ends with it. Who is cancelled meanwhile leaves the thread to
    itself, and no process waits for it when it ends: the function may wait for a disk that never answers."""
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
    """The values of a generator, which runs on a pool's threads. Who leaves early waits until it has reached its next
    one, where it is closed."""
    try:
        while (value := await _finished(pool.submit(next, values, None))) is not None:
            yield value
    finally:
        values.close()


async def _finished(work: Future[T]) -> T:
    """What is done on a thread. Who is cancelled meanwhile waits for its end, and does not hear what came of it."""
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        await asyncio.gather(asyncio.wrap_future(work), return_exceptions=True)
        raise


def give_back() -> None:
    """Gives memory that is free in this process back to the system, where the system has a call for that. Each thread
    has a heap of its own, which else keeps as much as the largest picture that it has decoded."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU library
    if trim is not None:
        trim(0)


def alone() -> None:
    """Has the tensor operations of the calling thread use no further threads."""
    torch.get_num_threads()  # gives a thread its number of threads, once; what follows is the last word
    threadpool_limits(limits=1, user_api="openmp")
