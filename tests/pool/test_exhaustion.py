"""A machine that has run out of something: files, threads, disk. Workers are started anew as soon as there is enough,
and until then nothing else ends."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explainer_pb2_grpc
from lightwell_server import descriptors
from lightwell_server.config import Settings
from lightwell_server.descriptors import HELD, KEPT, room
from lightwell_server.models.store import files
from lightwell_server.pool import pool as pools
from lightwell_server.pool import slot as places
from lightwell_server.pool.journal import CrashJournal
from lightwell_server.pool.pool import Pool
from tests.serving import bundled, served

ROOT = Path(__file__).parents[2]

WANTS = {
    "files": OSError(errno.EMFILE, "Too many open files"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "threads": RuntimeError("can't start new thread"),
    "memory": MemoryError(),
}
SAID = {want: str(error) or "MemoryError" for want, error in WANTS.items()}


@asynccontextmanager
async def living(workers=1):
    """A pool whose workers are kept alive."""
    pool = Pool(Settings(repository=bundled(), threads=1, workers=workers))
    running = asyncio.create_task(pool.supervise())
    try:
        async with asyncio.timeout(90):
            yield pool
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await pool.stop()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def failing(real, error, times):
    """A function that fails so many times before it does what it should."""
    left = [error] * times

    def call(*arguments):
        if left:
            raise left.pop()
        return real(*arguments)

    return call


@pytest.mark.parametrize("want", WANTS)
@pytest.mark.parametrize("what", ["_start", "memory_kills", "CrashJournal"])
def test_a_worker_is_started_as_soon_as_there_is_what_it_needs(monkeypatch, what, want):
    async def story():
        async with living() as pool:
            (slot,) = pool._slots
            ends = []
            ended = slot._ended
            monkeypatch.setattr(slot, "_ended", lambda *told: ends.append(told) or ended(*told))
            monkeypatch.setattr(places, what, failing(getattr(places, what), WANTS[want], 3))
            await until(lambda: slot.ready)
            assert ends == [(0, f"it could not be started: {SAID[want]}", False)] * 3
            assert slot.restarts == 3 and slot.pid

    asyncio.run(story())


def test_a_worker_that_cannot_be_looked_after_is_ended_and_replaced(monkeypatch):
    seen = []

    def link(socket):
        if not seen:
            seen.append(slot.pid)
            raise RuntimeError("can't start new thread")
        return real(socket)

    real = places.WorkerClient
    monkeypatch.setattr(places, "WorkerClient", link)

    async def story():
        nonlocal slot
        async with living() as pool:
            (slot,) = pool._slots
            await until(lambda: slot.ready)
            assert slot.last_end == "it could not be looked after: can't start new thread"
            assert slot.pid not in seen and not Path(f"/proc/{seen[0]}").exists()

    slot = None
    asyncio.run(story())


def test_what_fails_in_one_place_ends_no_other(monkeypatch):
    monkeypatch.setattr(pools, "PAUSE", 0.01)

    async def story():
        async with living(workers=2) as pool:
            bad, good = pool._slots
            real = bad._ended
            monkeypatch.setattr(bad, "_ended", failing(real, ValueError("a fault of the gateway"), 2))
            await until(lambda: bad.ready and good.ready)
            other = good.pid
            for _ in range(3):
                ended = bad.pid
                os.kill(ended, signal.SIGKILL)
                await until(lambda ended=ended: bad.ready and bad.pid != ended)
            assert (good.pid, good.restarts) == (other, 0)

    asyncio.run(story())


def test_a_record_that_was_cut_short_is_made_anew(tmp_path):
    path = tmp_path / "0.record"
    path.write_bytes(b"half")
    record = CrashJournal(path)
    record.write([7])
    assert CrashJournal(path).read()[1] == {7}


def test_a_worker_is_replaced_where_there_are_no_files_left():
    command = [sys.executable, "-m", "tests.none_left"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "ready True True signal SIGKILL\n", done.stderr


def run(code):
    """What a process of its own prints."""
    code = f"import os, resource\nfrom lightwell_server.descriptors import *\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_soft_limit_is_raised_to_the_hard_one():
    told = run(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 600)); few = connections(); raise_limit()\n"
        "print(few, connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert list(map(int, told)) == [50, 600 - KEPT, 600, 600]


def test_connections_are_counted_where_there_is_no_limit(monkeypatch):
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda what: (unlimited, unlimited))
    assert descriptors.connections() == 2**31 - 1 - KEPT


def test_a_reserve_is_there_when_it_is_needed():
    told = run(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))\n"
        "def used_up():\n"
        "    found = []\n"
        "    while True:\n"
        "        try: found.append(os.open(os.devnull, 0))\n"
        "        except OSError: return found\n"
        "reserve = Reserve()\n"
        "others = used_up()\n"
        "with reserve.given_back():\n"
        "    with reserve.given_back(): room(HELD)\n"
        "    room(HELD); taken = used_up()\n"  # others were faster
        "    print(len(taken))\n"
        "print(len(reserve._held))\n"
        "for one in taken: os.close(one)\n"
        "with reserve.given_back(): pass\n"
        "print(len(reserve._held), len(used_up()))\n"
    )
    assert list(map(int, told)) == [HELD, 0, HELD, 0]


def test_room_that_there_is_not_is_told_and_leaves_nothing_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 5, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            room(2 * before + 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_gateway_and_workers_may_open_what_the_system_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        with (
            served(bundled(), "--workers", "1", "--threads", "1") as server,
            grpc.insecure_channel(server.address) as c,
        ):
            stub = explainer_pb2_grpc.AdminServiceStub(c)
            (worker,) = stub.GetStatus(admin.GetStatusRequest()).workers
            parent = int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])
            gateway = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
            for process in (gateway, worker.pid):
                assert resource.prlimit(process, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_repository_that_cannot_be_looked_at_has_not_lost_its_models(monkeypatch, number):
    def none_left(path):
        raise OSError(number, os.strerror(number))

    assert set(files(bundled())) == {("shapes", "1")}
    monkeypatch.setattr(Path, "iterdir", none_left)
    with pytest.raises(OSError, match=os.strerror(number)):
        files(bundled())
