"""Threads beside the device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def beside(count: int, name: str) -> ThreadPoolExecutor:
    """Threads whose tensor operations use no further threads. OpenMP keeps a team for each thread that ever asked for
    one, and with several teams alive those at work wait for each other in a slower way: a device step on the CPU then
    takes a tenth longer."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_alone)


def _alone() -> None:
    torch.get_num_threads()  # gives a thread its number of threads, once; what follows is the last word
    threadpool_limits(limits=1, user_api="openmp")
