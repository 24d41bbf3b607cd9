"""More than a server can do: who is refused hears why and when to come back, and nothing is done for who has left."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from bench.callers.ender import end as ended
from bench.common.scrape import metered
from lightwell import Client, GradCam, LightwellError, Occlusion, OverloadedError, Pgd, Saliency, StyleTransfer
from lightwell.requests import synthesize_request
from lightwell.transport.errors import from_rpc
from lightwell.v1 import explainer_pb2_grpc
from lightwell.v1 import types_pb2 as types
from tests.server.test_service import PAINTING, STAR
from tests.serving import bundled, served_as_is

pytestmark = pytest.mark.server

FIXED = {"stop_early": False}
LOUD, QUIET = "a-token-of-one-that-is-not", "a-token-of-one-that-is-modest"


@pytest.fixture(scope="module")
def narrow():
    """A server with one worker, which lets few wait."""
    with served_as_is(bundled(), "--workers", "1", "--threads", "1", "--max-queue-seconds", "0.5") as server:
        yield server.address


@pytest.fixture(scope="module")
def pair():
    """A server with two workers that have four requests at work each, and its figures."""
    with metered(bundled(), "--workers", "2", "--threads", "1", "--max-rows", "2") as (server, scrape):
        yield server.address, scrape


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The same for two callers, of whom each may have three requests in progress."""
    tokens = tmp_path_factory.mktemp("known") / "tokens.toml"
    tokens.write_text(f'[loud]\ntoken = "{LOUD}"\n["leiser Ärger"]\ntoken = "{QUIET}"\n')
    few = ("--max-queue-seconds", "0.5", "--max-jobs", "7", "--tokens", str(tokens))
    with served_as_is(bundled(), "--workers", "1", "--threads", "1", *few) as server:
        yield server.address


def until(true, patience=30.0):
    """Waits until something is true."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "it has not become true"
        time.sleep(0.1)


def test_who_finds_the_line_full_hears_when_to_come_back(narrow):
    with Client(narrow, retries=0) as client, ThreadPoolExecutor(40) as threads:
        client.synthesize(Pgd(steps=50, **FIXED), image=STAR).result()

        def ask(_):
            try:
                return client.synthesize(Pgd(steps=400, **FIXED), image=STAR).result()
            except LightwellError as error:
                return error

        ends = list(threads.map(ask, range(40)))
    refused = [told for told in ends if isinstance(told, LightwellError)]
    assert 0 < len(refused) < len(ends)
    assert all(isinstance(told, OverloadedError) and told.reason == "QUEUE_FULL" for told in refused)
    assert all(told.retry_seconds > 0 for told in refused)


@pytest.mark.parametrize(
    ("method", "reason", "count"),
    [
        (StyleTransfer(styles=[PAINTING], size=64, steps=9000), "TOO_MANY_JOBS", 3),  # nobody knows what it costs
        (Pgd(steps=9000, **FIXED), "QUEUE_FULL", 1),
    ],
)
def test_a_flood_of_one_caller_shuts_nobody_else_out(known, method, reason, count):
    request, told = synthesize_request(method, image=STAR), (("authorization", f"Bearer {LOUD}"),)
    with Client(known, token=QUIET, retries=0, timeout=60) as quiet, grpc.insecure_channel(known) as channel:
        for _ in range(2):  # the server knows now what a step costs
            quiet.synthesize(Pgd(steps=2, **FIXED), image=STAR).result()
        stub = explainer_pb2_grpc.ExplainerServiceStub(channel)
        calls = [stub.Synthesize(request, metadata=told) for _ in range(6)]
        until(lambda: sum(call.is_active() for call in calls) == count)
        for _ in range(3):
            quiet.explain(STAR, Saliency())
        quiet.synthesize(Pgd(steps=3, **FIXED), image=STAR).result()
        refused = [call for call in calls if not call.is_active()]
        assert len(refused) == len(calls) - count
        assert {from_rpc(call, "").reason for call in refused} == {reason}
        for call in calls:
            call.cancel()


def test_a_deadline_that_cannot_be_kept_is_told_before_anything_is_decoded(narrow):
    with Client(narrow) as client:
        for _ in range(5):  # the server knows now what a step costs
            client.synthesize(Pgd(steps=2, **FIXED), image=STAR).result()
    request = synthesize_request(Pgd(steps=9999, **FIXED))
    request.image.CopyFrom(types.Image(encoded=b"no picture"))
    with grpc.insecure_channel(narrow) as channel:
        synthesize = explainer_pb2_grpc.ExplainerServiceStub(channel).Synthesize
        for timeout, reason in ((2.0, "DEADLINE_TOO_SHORT"), (None, "INVALID_ARGUMENT")):
            with pytest.raises(grpc.RpcError) as caught:
                list(synthesize(request, timeout=timeout))
            assert from_rpc(caught.value, "").reason == reason


def test_one_worker_answers_as_two_do(narrow, pair):
    def answers(address):
        with Client(address) as client, ThreadPoolExecutor(4) as threads:

            def seen(method):
                return client.explain(STAR, method, reproducible=True).values.tobytes()

            maps = list(threads.map(seen, [Saliency(), GradCam(), Occlusion(stride=16)] * 4))
            attack = client.synthesize(Pgd(steps=3), image=STAR, seed=1, reproducible=True).result()
        assert maps[:3] * 4 == maps
        return [*maps[:3], attack.message.png]

    assert answers(narrow) == answers(pair[0])


def test_what_may_be_long_leaves_room_for_what_is_not(pair):
    address, scrape = pair
    request = synthesize_request(StyleTransfer(styles=[PAINTING], size=64, steps=9000), image=STAR)
    with Client(address, timeout=60) as client, grpc.insecure_channel(address) as channel:
        client.explain(STAR, Saliency())  # what it costs is known now; what a transfer costs is not
        calls = [explainer_pb2_grpc.ExplainerServiceStub(channel).Synthesize(request) for _ in range(12)]
        before = scrape()
        until(lambda: scrape().total("lightwell_jobs") == len(calls))
        until(lambda: scrape().grown(before, "lightwell_steps_total") > 8)  # some are at work, whichever
        client.explain(STAR, Saliency())
        for call in calls:
            call.cancel()


def test_nothing_is_left_of_those_who_have_gone_and_nothing_done_for_them(pair):
    address, scrape = pair
    ends = asyncio.run(ended(address, 400, seed=5))
    assert ends.total() == 400 and ends["cancels: CANCELLED"] and ends["hangs up: CANCELLED"] and ends["waits: OK"]
    until(lambda: scrape().total("lightwell_jobs") == 0)
    time.sleep(0.5)  # the steps at work are finished
    before = scrape()
    assert before.total("lightwell_steps_total") > 0
    time.sleep(1)
    assert scrape().grown(before, "lightwell_steps_total") == 0
