"""Nothing is lost, whatever happens to the workers: the proofs of `bench.faults` in small, and single mishaps."""

import asyncio
import contextlib
import importlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from bench.common.operator import all_ready, operator, send
from bench.fault.kill import FLAGS
from bench.fault.poison import swallow
from bench.fault.poisoned_worker import EXIT, FAULT, KILL
from lightwell import AsyncClient, CancelledCallError, Occlusion, Saliency
from lightwell.demo import SAMPLES
from lightwell_server.models.store import files
from tests.serving import bundled, served_as_is

pytestmark = pytest.mark.server

STAR = SAMPLES / "star.png"
SECONDS = {"kill": 6, "stop": 1, "takeover": 1, "poison": 5, "swap": 1, "load": 1}


@pytest.mark.parametrize("name", SECONDS)
def test_the_proof_in_small(name):
    proof = importlib.import_module(f"bench.fault.{name}").prove(SECONDS[name])
    assert proof.counts.sent == proof.counts.answered + proof.counts.refused > 0
    assert proof.counts.lost == 0, proof.notes
    assert all(goal.met for goal in proof.goals), [goal.line() for goal in proof.goals] + proof.notes


def alive(pid):
    """Whether a process runs: one that has ended and is not waited for does not."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pids, patience=10.0):
    end = time.monotonic() + patience
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.fixture(scope="module")
def frail():
    """A server whose workers can be poisoned."""
    with served_as_is(bundled(), *FLAGS, module="bench.fault.poisoned") as server:
        yield server


@pytest.fixture
def doomed():
    """A server that may be killed."""
    with served_as_is(bundled(), *FLAGS) as server:
        yield server


def on(server, story):
    """Tells a story of a server: a function of a client that repeats nothing, and an operator."""

    async def told():
        async with AsyncClient(server.address, retries=0, timeout=60) as client, operator(server.address) as watching:
            await watching.until(all_ready)
            await story(client, watching)

    asyncio.run(told())


async def in_progress(watching, jobs):
    return await watching.until(lambda workers: sum(worker.jobs for worker in workers) >= jobs)


def test_poison_of_any_kind_is_refused_and_the_worker_replaced(frail):
    async def story(client, watching):
        for seed, end in ((EXIT, "exit status 1"), (KILL, "signal SIGKILL"), (FAULT, "exit status 70")):
            assert await swallow(client, seed) == "POISONED"
            assert end in {worker.last_end for worker in await watching.until(all_ready)}
            assert (await client.explain(STAR, Saliency())).provenance.attempts == 1

    on(frail, story)


def test_all_workers_may_be_killed_at_once(frail):
    async def story(client, watching):
        asked = [asyncio.create_task(client.explain(STAR, Occlusion(stride=8))) for _ in range(8)]
        workers = await in_progress(watching, 8)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
        assert all(answer.provenance.attempts > 1 for answer in await asyncio.gather(*asked))
        now = await watching.until(all_ready)
        assert not {worker.pid for worker in now} & {worker.pid for worker in workers}

    on(frail, story)


def test_a_suspect_is_run_though_others_would_keep_the_workers_busy(frail):
    async def story(client, watching):
        async def keep_asking():
            while not poisoned.done():
                assert (await client.explain(STAR, Occlusion(stride=12))).values.size

        poisoned = asyncio.create_task(swallow(client, EXIT))
        await asyncio.wait_for(asyncio.gather(*(keep_asking() for _ in range(4))), 60)
        assert poisoned.result() == "POISONED"

    on(frail, story)


def test_who_cancels_while_no_worker_is_there_leaves_nothing_behind(frail):
    async def story(client, watching):
        for worker in await watching.workers():
            os.kill(worker.pid, signal.SIGKILL)
        waiting = client.explain_stream(STAR, Occlusion(stride=2))
        asked = asyncio.create_task(waiting.result())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(CancelledCallError):
            await asked
        assert not any(worker.jobs for worker in await watching.until(all_ready))
        assert (await client.explain(STAR, Saliency())).provenance.attempts == 1

    on(frail, story)


def test_a_worker_may_be_killed_while_it_starts_and_loads(frail):
    async def story(client, watching):
        for pause in (0.0, 0.3, 0.6, 0.9):
            worker, _ = await watching.until(lambda workers: workers[0].pid)
            await asyncio.sleep(pause)
            send(worker.pid, signal.SIGKILL)
            await watching.until(lambda workers, pid=worker.pid: workers[0].pid != pid)
        await watching.until(all_ready)
        assert (await client.explain(STAR, Saliency())).map.any()

    on(frail, story)


def children(pid):
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def family(pid):
    """A process, its children, and theirs."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def test_the_process_that_workers_are_forked_from_may_be_killed(frail):
    async def story(client, watching):
        workers = {worker.pid for worker in await watching.workers()}
        (parent,) = (pid for pid in children(frail.process.pid) if workers & set(children(pid)))
        asked = asyncio.create_task(client.explain(STAR, Occlusion(stride=3)))
        await in_progress(watching, 1)
        os.kill(parent, signal.SIGKILL)
        assert (await asked).map.any()
        await watching.until(lambda now: all_ready(now) and not workers & {worker.pid for worker in now})
        assert gone(workers), "none is left beside its successor"

    on(frail, story)


def test_a_gateway_that_is_killed_leaves_no_worker_behind(doomed):
    async def story(client, watching):
        pids = family(doomed.process.pid)
        assert {worker.pid for worker in await watching.workers()} <= set(pids)
        doomed.process.kill()
        assert gone(pids[1:])

    on(doomed, story)


def test_a_second_signal_ends_at_once_and_leaves_no_worker_behind(doomed):
    async def story(client, watching):
        asked = asyncio.create_task(client.explain(STAR, Occlusion(stride=1)))
        await in_progress(watching, 1)
        pids = family(doomed.process.pid)
        doomed.process.terminate()
        await asyncio.sleep(0.5)
        assert not asked.done(), "the first signal lets it finish"
        doomed.process.terminate()
        assert await asyncio.to_thread(doomed.process.wait, 5) == 1
        assert gone(pids[1:])
        asked.cancel()

    on(doomed, story)


def test_a_repository_may_change_while_it_is_looked_at(tmp_path):
    (tmp_path / "kept" / "1").mkdir(parents=True)
    (tmp_path / "kept" / "1" / "model.pt").touch()
    over = threading.Event()

    def churn():
        for _ in range(500):
            (tmp_path / "net" / "1").mkdir(parents=True)
            (tmp_path / "net" / "1" / "model.pt").touch()
            shutil.rmtree(tmp_path / "net")
        over.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not over.is_set():
        assert {("kept", "1")} <= set(files(tmp_path)) <= {("kept", "1"), ("net", "1")}
    thread.join()
