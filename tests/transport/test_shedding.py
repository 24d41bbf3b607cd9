"""Who may not come in is told so before its request is read, and more slowly the faster it asks."""

import asyncio

import grpc
import pytest

from lightwell.v1 import explain_pb2 as explain
from lightwell.v1 import explainer_pb2_grpc, models_pb2
from lightwell_server.errors import Overloaded
from lightwell_server.transport import shedding
from lightwell_server.transport.shedding import KNOWN, LONGEST, REFUSALS, LoadShedder
from tests.serving import bundled, served


def shut(caller):
    if caller != "modest":
        raise Overloaded(f"{caller} has enough", reason="TOO_MANY_JOBS")


@pytest.fixture
def slept(monkeypatch):
    """The seconds of each pause, of which none is made."""
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(shedding.asyncio, "sleep", pause)
    return pauses


def refused(shedder, caller, left=None):
    with pytest.raises(Overloaded, match="has enough"):
        asyncio.run(shedder.admit(caller, left))


def test_who_may_come_in_waits_for_nothing(slept):
    asyncio.run(LoadShedder(shut).admit("modest", None))
    assert not slept


def test_one_refusal_comes_at_once_and_many_by_and_by(slept):
    now = [100.0]
    shedder = LoadShedder(shut, lambda: now[0])
    for _ in range(3):
        refused(shedder, "greedy")
    refused(shedder, "another")
    assert slept == pytest.approx([0.0, 1 / REFUSALS, 2 / REFUSALS, 0.0])
    now[0] += 10.0
    refused(shedder, "greedy")
    assert slept[-1] == 0.0


def test_no_refusal_waits_for_longer_than_its_call_or_the_most(slept):
    shedder = LoadShedder(shut, lambda: 0.0)
    for _ in range(round(LONGEST * REFUSALS) + 100):
        refused(shedder, "greedy")
    assert max(slept) == slept[-1] == LONGEST
    refused(shedder, "greedy", left=0.3)
    refused(shedder, "greedy", left=-1.0)
    assert slept[-2:] == [0.15, 0.0]


def test_callers_are_forgotten_once_their_next_refusal_is_due(slept):
    now = [0.0]
    shedder = LoadShedder(shut, lambda: now[0])
    for number in range(3 * KNOWN):
        now[0] += 1.0
        refused(shedder, f"caller {number}")
    assert len(shedder._next) <= KNOWN


def test_a_caller_of_too_many_requests_is_told_before_its_request_is_read():
    with (
        served(bundled(), "--max-jobs-per-caller", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = explainer_pb2_grpc.ExplainerServiceStub(channel)
        image = {"tensor": {"shape": [3, 64, 64], "dtype": "DATA_TYPE_UINT8", "data": bytes(3 * 64 * 64)}}
        long = stub.ExplainStream(explain.ExplainStreamRequest(request={"occlusion": {"stride": 1}, "image": image}))
        next(long)
        path = "/lightwell.v1.ExplainerService/Explain"
        for _ in range(3):
            nothing = channel.stream_stream(path)(iter([b"no message"]), timeout=60)
            with pytest.raises(grpc.RpcError, match="wait for one to end") as caught:
                list(nothing)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert explainer_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest()).models
        long.cancel()
