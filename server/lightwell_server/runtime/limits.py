"""Limits of a request, checked before it runs."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from lightwell_server.contract import GRAD, Ask
from lightwell_server.errors import InvalidArgument, OutOfMemory
from lightwell_server.models.footprint import row_bytes, sides
from lightwell_server.models.graph import Graph
from lightwell_server.resources import free_memory, memory_limit

SHARE = 0.8
"""Share of the free memory that a device step may use, if no limit is set."""
LEAST = 256 * 2**20
"""Least bytes that it may use: a momentary lack of memory must not refuse all requests for good."""


@dataclass
class Limits:
    """`steps` that a method may plan, `rows` that one Ask may have, `memory` in bytes that a device step may use (0:
    most of what is free when the first request comes)."""

    steps: int = 10_000
    rows: int = 100_000
    memory: int = 0
    device: str = "cpu"

    @cached_property
    def bytes(self) -> int:
        """Bytes that a device step may use."""
        device = torch.device(self.device)
        kept = (memory_limit() or 0) // 4 if device.type == "cpu" else 0  # for the gateway
        return self.memory or max(LEAST, int(SHARE * (free_bytes(device) - kept)))

    def fitting(self, graph: Graph, ask: Ask) -> int:
        """How many rows like those of an Ask fit into a step. Raises `OutOfMemory`, with a size that would fit, if not
        even one does, and `InvalidArgument` if the Ask has too many rows."""
        if ask.count > self.rows:
            raise InvalidArgument(
                f"the method asks the model for {ask.count:,} rows at once and may for {self.rows:,}; take a larger"
                " stride, or fewer samples",
                reason="TOO_MANY_ROWS",
            )
        needed = row_bytes(graph, ask)
        if needed <= self.bytes:
            return max(1, self.bytes // max(needed, 1))
        height, width = sides(graph, ask)
        share = math.sqrt(self.bytes / needed)
        taken = "with its gradient " if ask.want & GRAD else ""
        raise OutOfMemory(
            f"one picture of {height} x {width} {taken}needs about {_giga(needed)} of the device, which has"
            f" {_giga(self.bytes)}; about {int(height * share)} x {int(width * share)} would fit"
        )


def free_bytes(device: torch.device) -> int:
    """Free bytes of a device. For the CPU it is the least of the machine's and the control group's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = free_memory()
    return 2**62 if free is None else free


def used_bytes(device: torch.device) -> int:
    """Bytes of a device that this process uses."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else 0


def _giga(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
