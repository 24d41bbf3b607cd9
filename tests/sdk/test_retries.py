"""What the clients do when a server goes away: against small servers that fail as they are told, and against a real one
that is killed."""

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

import lightwell
from lightwell import (
    AsyncClient,
    CancelledCallError,
    Client,
    GradCam,
    LightwellError,
    Pgd,
    Style,
    StyleTransfer,
    UnavailableError,
)
from lightwell.images import to_message
from lightwell.transport.retry import TOKENS, Budget, Course
from lightwell.v1 import admin_pb2, explain_pb2, explainer_pb2_grpc
from lightwell.v1 import synthesize_pb2 as synthesize
from tests.server.test_service import free_port
from tests.serving import bundled, served

SAMPLES = Path(lightwell.__file__).parent / "samples"
STAR = SAMPLES / "star.png"
PNG = STAR.read_bytes()


class Failing(explainer_pb2_grpc.ExplainerServiceServicer, explainer_pb2_grpc.AdminServiceServicer):
    """Answers each attempt as the next of `attempts` says: how many steps it gets to before the connection is declared
    lost, or None for one that comes to its end. The last holds for all further ones."""

    def __init__(self, *attempts, retry_seconds=None, result_first=False):
        self.attempts, self.retry_seconds, self.result_first = attempts, retry_seconds, result_first
        self.metadata, self.left, self.times, self.requests = [], [], [], []

    def _begin(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        self.left.append(context.time_remaining())
        self.times.append(time.monotonic())
        self.requests.append(request)
        return self.attempts[min(len(self.times), len(self.attempts)) - 1]

    def _lose(self, context):
        details = []
        if self.retry_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(round(self.retry_seconds * 1000))
            details.append(any_pb2.Any())
            details[0].Pack(retry)
        code = grpc.StatusCode.UNAVAILABLE.value[0]
        context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code, message="gone", details=details)))

    def Explain(self, request, context):
        if self._begin(request, context) is not None:
            self._lose(context)
        return explain_pb2.ExplainResponse()

    def LoadModel(self, request, context):
        if self._begin(request, context) is not None:
            self._lose(context)
        return admin_pb2.LoadModelResponse()

    def StopJob(self, request, context):
        if self._begin(request, context) is not None:
            self._lose(context)
        return admin_pb2.StopJobResponse()

    def Synthesize(self, request, context):
        reached = self._begin(request, context)
        for step in range(1, 1 + (10 if reached is None else reached)):
            yield synthesize.SynthesizeResponse(progress=synthesize.Progress(step=step, steps=10))
        if reached is None or self.result_first:
            yield synthesize.SynthesizeResponse(result=synthesize.SynthesizeResult(png=PNG))
        if reached is not None:
            self._lose(context)


@contextmanager
def listening(service):
    server = grpc.server(ThreadPoolExecutor(8))
    explainer_pb2_grpc.add_ExplainerServiceServicer_to_server(service, server)
    explainer_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def waiting(service, **settings):
    """Follows a synthesis with `Client`: its steps, and its result."""
    with listening(service) as address, Client(address, **settings) as client:
        stream = client.synthesize(Pgd(), image=STAR, seed=3)
        steps = [progress.step for progress in stream]
        return steps, stream.result()


def awaited(service, **settings):
    """The same with `AsyncClient`."""

    async def follow(address):
        async with AsyncClient(address, **settings) as client:
            stream = client.synthesize(Pgd(), image=STAR, seed=3)
            steps = [progress.step async for progress in stream]
            return steps, await stream.result()

    with listening(service) as address:
        return asyncio.run(follow(address))


@pytest.fixture(params=[waiting, awaited], ids=["Client", "AsyncClient"])
def follow(request):
    return request.param


def test_a_broken_stream_goes_on_where_it_was(follow):
    service = Failing(3, 0, 5, 2, None)
    steps, made = follow(service)
    assert steps == list(range(1, 11)) and made.image.size == (192, 192)
    assert len(service.times) == 5
    assert all(request == service.requests[0] for request in service.requests) and service.requests[0].seed == 3
    assert len({headers["x-request-id"] for headers in service.metadata}) == 1


@pytest.mark.parametrize("reached", [0, 4])
def test_attempts_that_bring_nothing_new_come_to_an_end(follow, reached):
    service = Failing(4, reached)
    with pytest.raises(UnavailableError, match="gone") as caught:
        follow(service, retries=2)
    assert len(service.times) == 3
    assert caught.value.request_id == service.metadata[0]["x-request-id"]


def test_retries_can_be_switched_off(follow):
    service = Failing(3, None)
    with pytest.raises(UnavailableError):
        follow(service, retries=0)
    assert len(service.times) == 1


def test_the_pauses_grow(follow):
    service = Failing(0, 0, 0, None)
    follow(service)
    pauses = [after - before for before, after in zip(service.times, service.times[1:], strict=False)]
    assert [0.15 < pause / 2**i < 0.35 for i, pause in enumerate(pauses)] == [True] * 3, pauses


def test_the_server_says_how_long_to_wait(follow):
    service = Failing(2, None, retry_seconds=0.9)
    follow(service)
    assert service.times[1] - service.times[0] >= 0.9


def test_the_timeout_is_of_all_attempts_together(follow):
    service = Failing(0, retry_seconds=0.4)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        follow(service, timeout=1.0, retries=100)
    assert time.monotonic() - began < 3
    # No attempt has the whole second anew; gRPC rounds what it sends up.
    assert 2 <= len(service.left) <= 3 and service.left[0] <= 1.05 and service.left[-1] < 0.7


def test_a_result_counts_even_if_its_status_is_lost(follow):
    service = Failing(7, result_first=True)
    steps, made = follow(service)
    assert steps == list(range(1, 8)) and made.message.png == PNG and len(service.times) == 1


def test_each_attempt_has_a_token_of_its_own(follow):
    tokens = iter(["first", "second"])
    service = Failing(1, None)
    follow(service, token=lambda: next(tokens))
    assert [headers["authorization"] for headers in service.metadata] == ["Bearer first", "Bearer second"]


def test_a_stream_can_be_cancelled_while_it_waits_for_its_next_attempt():
    with listening(Failing(2, retry_seconds=60)) as address, Client(address) as client:
        stream = client.synthesize(Pgd(), image=STAR)
        threading.Timer(0.5, stream.cancel).start()
        began = time.monotonic()
        with pytest.raises(CancelledCallError):
            stream.result()
        assert time.monotonic() - began < 5


def test_an_asynchronous_stream_can_be_cancelled_at_work_and_while_it_waits():
    async def cancelled(address):
        async with AsyncClient(address) as client:
            stream = client.synthesize(Pgd(), image=STAR)
            asyncio.get_running_loop().call_later(0.5, stream.cancel)
            with pytest.raises(CancelledCallError):
                await stream.result()
            stream = client.synthesize(Pgd(), image=STAR)
            stream.cancel()
            with pytest.raises(CancelledCallError):
                await stream.result()

    with listening(Failing(2, retry_seconds=60)) as address:
        asyncio.run(asyncio.wait_for(cancelled(address), 10))


def explained(address, **settings):
    with Client(address, **settings) as client:
        return client.explain(STAR, GradCam())


def explained_async(address, **settings):
    async def explain():
        async with AsyncClient(address, **settings) as client:
            return await client.explain(STAR, GradCam())

    return asyncio.run(explain())


@pytest.mark.parametrize("explain", [explained, explained_async])
@pytest.mark.parametrize(("retries", "failures", "attempts"), [(3, 3, 4), (3, 4, 4), (1, 1, 2), (1, 2, 2), (0, 1, 1)])
def test_a_single_answer_is_asked_for_as_often(explain, retries, failures, attempts):
    service = Failing(*[0] * failures, None)
    with listening(service) as address:
        if failures <= retries:
            explain(address, retries=retries)
        else:
            with pytest.raises(UnavailableError):
                explain(address, retries=retries)
    assert len(service.times) == attempts
    assert len({headers["x-request-id"] for headers in service.metadata}) == 1


def test_what_an_operator_asks_is_asked_again_but_for_stopping_a_job():
    """The next server may have another job of that number."""
    service = Failing(0, None)
    with listening(service) as address, Client(address) as client:
        client.load_model("shapes", "1")
    assert len(service.times) == 2
    service = Failing(0, None)
    with listening(service) as address, Client(address) as client, pytest.raises(UnavailableError):
        client.stop_job(7)
    assert len(service.times) == 1


def test_a_call_that_fails_otherwise_is_not_asked_again():
    with listening(Failing(None)) as address, Client(address) as client, pytest.raises(LightwellError) as caught:
        client.explain_stream(STAR, GradCam()).result()  # this server has no such call
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED and caught.value.request_id
    assert "older version" in caught.value.message


def test_arguments_that_make_no_sense_are_told():
    with pytest.raises(ValueError, match="retries is -1"):
        Client("127.0.0.1:1", retries=-1)
    with pytest.raises(ValueError, match="over TLS only"):
        Client("127.0.0.1:1", certificate=("a.pem", "b.pem"))


def test_a_spent_budget_stops_all_streams_of_a_client():
    budget = Budget()
    assert [budget.fail() for _ in range(TOKENS)] == [True] * (TOKENS // 2 - 1) + [False] * (TOKENS // 2 + 1)
    gone = lightwell.transport.errors.error_for(grpc.StatusCode.UNAVAILABLE, "gone")
    with pytest.raises(UnavailableError):
        Course(retries=100, timeout=None, budget=budget).pause(gone)
    for _ in range(60):  # ten failures need fifty successes, and one more to be above the half
        budget.succeed()
    assert Course(retries=100, timeout=None, budget=budget).pause(gone) > 0


@given(
    passes=st.lists(st.lists(st.integers(1, 40), min_size=1, unique=True).map(sorted), min_size=1, max_size=4),
    breaks=st.lists(st.integers(0, 60), max_size=6),
)
def test_what_is_shown_is_what_an_unbroken_stream_shows(passes, breaks):
    events = [
        explain_pb2.ExplainStreamResponse(progress=explain_pb2.ExplainProgress(passes_done=row, passes_total=40))
        for steps in passes
        for row in steps
    ]
    course, shown = Course(retries=len(breaks), timeout=None, budget=Budget()), []
    gone = lightwell.transport.errors.error_for(grpc.StatusCode.UNAVAILABLE, "gone")
    for length in breaks:
        shown += filter(course.is_new, events[:length])
        course.pause(gone)
    shown += filter(course.is_new, events)
    assert shown == events


def test_a_style_transfer_survives_the_death_of_its_server():
    flags = ("--threads", "1", "--address", f"127.0.0.1:{free_port()}")
    style = Style(image=to_message(SAMPLES / "painting.png"))
    method = StyleTransfer(styles=[style], size=64, steps=80)
    options = {"image": STAR, "reproducible": True, "image_tensor": True, "seed": 5}
    steps = []
    with served(bundled(), *flags) as first, Client(first.address, retries=9) as client, ExitStack() as after:
        whole = client.synthesize(method, **options).result()
        stream = client.synthesize(method, **options)
        for progress in stream:
            steps.append(progress.step)
            if progress.step == 20:
                first.process.send_signal(signal.SIGKILL)
                first.process.wait()
                second = after.enter_context(served(bundled(), *flags))
        made = stream.result()
        assert second.process.poll() is None
    assert steps == list(range(1, 81))
    assert made.message.png == whole.message.png
    assert made.tensors["image"].tobytes() == whole.tensors["image"].tobytes()
