"""Models that take for ever to load, and disks that take for ever to answer, keep nobody else waiting."""

import asyncio
import logging
import shutil
import threading
import time

import grpc
import pytest

from bench.fault.endless_worker import NAME
from lightwell import Client, Saliency
from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import explainer_pb2_grpc
from lightwell.v1 import models_pb2 as models
from lightwell_server.config import Settings
from lightwell_server.errors import NotFound, Refused, Unavailable
from lightwell_server.gateway import reconciler as reconcilers
from lightwell_server.gateway.reconciler import Reconciler
from lightwell_server.gateway.registry import ModelRegistry, State
from lightwell_server.models import store
from lightwell_server.runtime import loading
from lightwell_server.runtime.device import Device
from tests.curating import hurry
from tests.gateway.test_reconciler import add, until
from tests.server.test_service import LONG, STAR
from tests.serving import bundled, served

EVER = 60.0
"""Seconds for which no load of a test lasts."""


class Gate:
    """Has the loading of some versions wait until it is opened; counts the loads of each."""

    def __init__(self, *shut):
        self.shut, self.open, self.begun = set(shut), threading.Event(), []

    def __call__(self, path, *arguments):
        key = (path.parent.parent.name, path.parent.name)
        self.begun.append(key)
        if key in self.shut:
            self.open.wait()
        return self.lift(path, *arguments)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    hurry(monkeypatch)
    add(tmp_path / "repository", "1")
    return tmp_path / "repository"


@pytest.fixture
def gate(monkeypatch):
    """A gate that is open once the test is over."""
    gate = Gate(("slow", "1"), ("slower", "1"), ("net", "2"))
    gate.lift = store.lift
    monkeypatch.setattr(store, "lift", gate)
    yield gate
    gate.open.set()


class Kept:
    """A library that is kept in step with a repository in one process."""

    def __init__(self, repository, seconds=EVER):
        settings = Settings(repository=repository, max_load_seconds=seconds)
        self.library, self.device = ModelRegistry(repository), Device(settings, "cpu")
        self.reconciler = Reconciler(repository, self.library, self.device, self.told)

    async def told(self, name):
        pass

    def state(self, name, version="1"):
        return self.library.entry(name, version).state

    async def __aenter__(self):
        await self.reconciler.expect()
        self.all = asyncio.create_task(self.reconciler.load_all())
        self.watching = asyncio.create_task(self.reconciler.watch())
        return self

    async def __aexit__(self, *_):
        for task in (self.all, self.watching):
            task.cancel()
        await asyncio.wait([self.all, self.watching])
        await self.device.stop()


def test_others_are_loaded_and_followed_while_one_is_still_loading(repository, gate):
    async def story():
        add(repository, "1", name="slow")
        async with Kept(repository) as kept:
            await until(lambda: kept.library.entry("net", "1").ready and ("slow", "1") in gate.begun)
            add(repository, "3", seed=1)
            await until(lambda: kept.library.get("net").version == "3")
            assert (await kept.reconciler.load("net", "1")).summary.version == "1"
            await kept.reconciler.unload("net", "3")
            shutil.rmtree(repository / "net" / "3")
            await until(lambda: [entry.id for entry in kept.library.versions("net")] == ["net@1"])
            assert kept.state("slow") == State.MODEL_STATE_LOADING and not kept.all.done()
            with pytest.raises(Unavailable, match="slow@1 is still being loaded"):
                kept.library.get("slow")
            gate.open.set()
            await kept.all
            assert kept.library.get("slow").ready

    asyncio.run(story())


def test_what_never_ends_is_refused_once_and_what_waits_behind_it_is_loaded(repository, gate, caplog):
    async def story():
        for name, version in (("slow", "1"), ("third", "1"), ("net", "2")):
            add(repository, version, name=name)
        async with Kept(repository, seconds=4.0) as kept:
            await kept.all
            assert kept.library.get("third").ready
            assert kept.library.get("net").version == "1", "the newest that is not refused"
            for name, version in (("slow", "1"), ("net", "2")):
                with pytest.raises(Refused, match="longer than 4 s; raise --max-load-seconds"):
                    kept.library.get(name, version)
            begun = list(gate.begun)
            await asyncio.sleep(0.3)  # many looks
            assert gate.begun == begun, "nothing is tried again"
            gate.shut.discard(("slow", "1"))
            add(repository, "1", seed=1, name="slow")
            await until(lambda: kept.library.entry("slow", "1").ready)

    asyncio.run(story())
    assert sum("stays until it ends" in line for line in caplog.messages) == 2


def test_the_log_tells_what_is_still_being_loaded(repository, gate, monkeypatch, caplog):
    monkeypatch.setattr(loading, "TOLD", 0.05)
    add(repository, "1", name="slow")

    async def story():
        async with Kept(repository) as kept:
            await until(lambda: any("model slow@1 has been loading for" in line for line in caplog.messages))
            gate.open.set()
            await kept.all

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())


def test_the_time_that_a_model_waits_for_its_turn_does_not_count(gate):
    async def story():
        turns = loading.Loading(0.3)
        reached = []

        async def load(model, forever):
            async with turns.of(model):
                reached.append(model)
                await (asyncio.Future() if forever else asyncio.sleep(0))

        ends = await asyncio.gather(
            *(load(name, name != "last") for name in ("a", "b", "c", "d", "last")), return_exceptions=True
        )
        assert reached == ["a", "b", "c", "d", "last"]
        assert [type(end) for end in ends] == [loading.Overdue] * 4 + [type(None)]

    asyncio.run(story())


def test_files_that_go_or_change_while_they_are_loaded(repository, gate):
    async def story():
        add(repository, "1", name="slow")
        add(repository, "1", name="slower")
        async with Kept(repository) as kept:
            await until(lambda: {("slow", "1"), ("slower", "1")} <= set(gate.begun))
            shutil.rmtree(repository / "slow")
            add(repository, "1", seed=1, name="slower")
            await until(lambda: all(entry.name != "slow" for entry in kept.library.all()))
            asked = asyncio.create_task(kept.reconciler.load("slower", "1"))
            await asyncio.sleep(0.2)
            gate.open.set()
            await kept.all
            first, second = ((await asked).summary.digest, kept.library.get("slower").described.summary.digest)
            assert first == second and gate.begun.count(("slower", "1")) == 2, "its new files are loaded, too"
            await until(lambda: set(kept.device._models) == {("net", "1"), ("slower", "1")})
            assert {entry.id for entry in kept.library.all()} == {"net@1", "slower@1"}

    asyncio.run(story())


def test_who_asks_for_files_that_go_meanwhile_is_told(repository, gate):
    async def story():
        async with Kept(repository) as kept:
            await kept.all
            add(repository, "1", name="slow")
            asked = asyncio.create_task(kept.reconciler.load("slow", ""))
            await until(lambda: ("slow", "1") in gate.begun)
            shutil.rmtree(repository / "slow")
            await until(lambda: all(entry.name != "slow" for entry in kept.library.all()))
            gate.open.set()
            with pytest.raises(NotFound, match="the files of slow@1 have gone"):
                await asked
            await until(lambda: set(kept.device._models) == {("net", "1")})

    asyncio.run(story())


def test_a_fault_over_one_model_lets_go_of_no_other(repository, monkeypatch):
    async def story():
        async with Kept(repository) as kept:
            await kept.all
            real = kept.device.load

            async def faulty(name, version):
                if name == "other":
                    raise ZeroDivisionError
                return await real(name, version)

            monkeypatch.setattr(kept.device, "load", faulty)
            add(repository, "1", name="other")
            await until(lambda: kept.state("other") == State.MODEL_STATE_REFUSED)
            add(repository, "2", seed=1)
            await until(lambda: kept.library.get("net").version == "2")

    asyncio.run(story())


def test_a_repository_that_does_not_answer_is_looked_at_again_and_holds_nothing_up(repository, monkeypatch, caplog):
    monkeypatch.setattr(reconcilers, "LOOK", 0.2)
    hung, back = threading.Event(), threading.Event()
    real = reconcilers.files

    def hanging(path):
        if hung.is_set():
            back.wait()
        return real(path)

    monkeypatch.setattr(reconcilers, "files", hanging)

    async def story():
        hung.set()
        async with Kept(repository) as kept:
            assert not kept.library.all() and not kept.all.done()
            hung.clear()  # a look that begins now is answered; those before never are
            await kept.all
            assert kept.library.get("net").version == "1"
            add(repository, "2", seed=1)
            hung.set()
            with pytest.raises(Unavailable, match="the repository does not answer now"):
                await kept.reconciler.load("net", "2")
            assert kept.library.get("net").ready
            hung.clear()
            await until(lambda: kept.library.get("net").version == "2")
        back.set()

    asyncio.run(story())
    assert any("the repository has not answered for 0.2 seconds" in line for line in caplog.messages)


def test_a_worker_that_never_finishes_a_model_is_ended_and_what_it_had_is_begun_again(tmp_path):
    repository = shutil.copytree(bundled(), tmp_path / "repository")
    shutil.copytree(repository / "shapes", repository / NAME)
    flags = ("--workers", "1", "--threads", "1", "--max-load-seconds", "3")
    with (
        served(repository, *flags, module="bench.fault.endless") as server,
        grpc.insecure_channel(server.address) as channel,
        Client(server.address, retries=0) as client,
    ):
        operator = explainer_pb2_grpc.AdminServiceStub(channel)

        def status():
            return operator.GetStatus(admin.GetStatusRequest())

        (refused,) = (model for model in status().models if model.name == NAME)
        assert refused.state == models.MODEL_STATE_REFUSED and "longer than 3 s" in refused.reason
        wait(lambda: status().workers[0].restarts == 1)
        assert "it was loading endless@1 for more than 3 seconds" in status().workers[0].last_end
        wait(lambda: status().workers[0].state == admin.WORKER_STATE_READY)  # its next one does not try that model
        endless = operator.LoadModel.future(admin.LoadModelRequest(model=NAME))
        assert operator.LoadModel(admin.LoadModelRequest(model="shapes")).model.summary.name == "shapes"
        assert client.explain(STAR, Saliency(), model="shapes").target.label == "star"
        way = iter(client.synthesize(LONG, image=STAR, model="shapes"))
        next(way)
        assert endless.exception(30).code() is grpc.StatusCode.FAILED_PRECONDITION
        wait(lambda: [job.attempts for job in operator.ListJobs(admin.ListJobsRequest()).jobs] == [2])
        assert status().workers[0].restarts == 2


def wait(condition, patience=30.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
