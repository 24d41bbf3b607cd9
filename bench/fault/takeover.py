"""A server is told to stop under load, and another one takes over."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from bench.callers.mixed import Load, questions, undisturbed
from bench.common.proof import Proof, none
from bench.common.table import Goal
from bench.fault.kill import FLAGS
from lightwell import AsyncClient
from lightwell.serving import Server, bundled, served

SETTLE = 1.0
"""Seconds for which a server that stops still takes calls."""
NOTICED = 4.0
"""Seconds for which a new server is there before the old one is told to stop: callers try to connect every 3."""
CHUNK = 65_536


def prove(seconds: float) -> Proof:
    """Has one server take over from the other for so many seconds; the SDK repeats as it does by default."""
    return asyncio.run(_prove(seconds))


@dataclass
class Shift:
    """A server at work behind one of the two addresses. As behind a service of Kubernetes, the address is there from
    when the server is ready until it is told to stop; connections stay."""

    server: Server
    stack: ExitStack
    address: asyncio.Server

    @classmethod
    async def begin(cls, port: int) -> Shift:
        """Starts a server; returns when it is ready and has its address."""
        stack = ExitStack()
        starting = served(bundled(), *FLAGS, "--settle-seconds", str(SETTLE))
        server = await asyncio.to_thread(stack.enter_context, starting)
        behind = int(server.address.rpartition(":")[2])
        return cls(server, stack, await asyncio.start_server(partial(_relay, behind), "127.0.0.1", port))

    async def end(self) -> int | None:
        """Stops it; returns its exit code."""
        self.address.close()
        await asyncio.to_thread(self.stack.close)
        return self.server.exit_code


async def _relay(behind: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connects a caller with the server at a port, for as long as both want."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", behind)
    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # one side has gone; the other is told
    finally:
        writer.close()


async def _prove(seconds: float) -> Proof:
    loop, ports, codes = asyncio.get_running_loop(), _free_ports(), []
    turns = cycle(ports)
    shift = await Shift.begin(next(turns))
    async with AsyncClient("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as client:
        load = Load(client, await undisturbed(client, questions(seconds)))
        async with load.running():
            end = loop.time() + seconds
            while not codes or loop.time() < end:
                before, shift = shift, await Shift.begin(next(turns))
                await asyncio.sleep(NOTICED)
                codes.append(await before.end())
    await shift.end()
    goals = [
        Goal("takeover: servers that ended well", codes.count(0), len(codes), True, "d"),
        none("takeover: requests lost", load.counts.lost),
        none("takeover: answers other than an undisturbed server's", len(load.wrong)),
        none("takeover: progress that went back", load.back),
    ]
    return Proof("takeover", load.counts, goals, [f"{len(codes)} servers took over", *load.notes()])


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in (one, other)]
