"""Calls before their request is whole and after they are answered, and strangers who do nothing at all."""

import asyncio
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image as Pil

from bench.callers.frames import Stranger, deaf, message
from lightwell import Client, InvalidArgumentError, Saliency, UnavailableError
from lightwell.transport.errors import from_rpc
from lightwell.v1 import explain_pb2, explainer_pb2_grpc, models_pb2
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import WRITTEN
from lightwell_server.transport.access import Access
from lightwell_server.transport.exchange import Exchange
from lightwell_server.transport.health import WATCHES_PER_PEER, Health
from lightwell_server.transport.interceptors import Boundary
from lightwell_server.transport.shedding import LoadShedder
from tests.server.test_service import STAR
from tests.serving import bundled, served, served_as_is

EXPLAIN, LIST = "/lightwell.v1.ExplainerService/Explain", "/lightwell.v1.ModelService/ListModels"
MIB = 2**20


def until(true, patience=60.0):
    """Waits until something is true."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "it has not become true"
        time.sleep(0.05)


class Models(explainer_pb2_grpc.ModelServiceServicer):
    """Answers as it is told to."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    async def ListModels(self, request, context):
        self.asked += 1
        return await self.answer()


class Served:
    """A boundary with a service behind it, in a thread with an event loop of its own."""

    def __init__(self, answer, **bounds):
        self.service, self.calls = Models(answer), []
        self.bounds = {
            "max_request": 4 * MIB,
            "max_answer": 4 * MIB,
            "max_streams": 4,
            "receive_seconds": 60.0,
            "send_seconds": 60.0,
        } | bounds
        self.health, self.ready = None, threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)

    async def run(self):
        self.loop, self.over, self.health = asyncio.get_running_loop(), asyncio.Event(), Health()
        self.exchange = Exchange(Budget(16 * MIB, "the messages"), Budget(8 * MIB, "the answers"), **self.bounds)
        self.boundary = Boundary(Access(None), [self.calls.append], self.exchange, LoadShedder(str), 60.0, {})
        server = grpc.aio.server(interceptors=[self.boundary])
        explainer_pb2_grpc.add_ModelServiceServicer_to_server(self.service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self.ready.set()
        await self.over.wait()
        await server.stop(0)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(60)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(60)


async def nothing():
    return models_pb2.ListModelsResponse()


def asked(channel, requests, path=LIST):
    """The answers to raw requests, as they come."""
    return channel.stream_stream(path)(iter(requests), timeout=60)


def refused(call):
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return from_rpc(caught.value, "")


def waiting():
    """Requests of which none ever comes."""
    threading.Event().wait()
    yield b""


def test_a_request_that_does_not_come_is_given_up():
    with Served(nothing, receive_seconds=0.5) as it, grpc.insecure_channel(it.address) as channel:
        error = refused(asked(channel, waiting()))
        assert error.reason == "REQUEST_TOO_SLOW" and "within 0.5 seconds" in str(error)
        assert not it.service.asked and it.exchange.received.held == 0
        assert it.calls[0].code == "DEADLINE_EXCEEDED" and list(asked(channel, [b""])) == [b""]


def test_a_call_without_a_request_is_told_what_to_send():
    with Served(nothing) as it, grpc.insecure_channel(it.address) as channel:
        error = refused(asked(channel, []))
        assert error.reason == "NO_MESSAGE" and "ListModelsRequest" in str(error) and not it.service.asked


def test_room_for_requests_is_shared_and_one_caller_has_half_of_it():
    with Served(nothing) as it, ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(it.address)) for _ in range(3)]
        begun = [asked(channel, waiting()) for channel in channels]
        until(lambda: it.exchange.received.held == 8 * MIB)
        error = refused(asked(channels[0], [b""]))  # it waits as long as anybody does, and is not forgotten
        assert error.reason == "QUEUE_FULL" and error.retry_seconds > 0
        for call in begun:
            call.cancel()
        until(lambda: it.exchange.received.held == 0)
        assert list(asked(channels[0], [b""])) == [b""]


def test_an_answer_that_nobody_reads_is_given_up():
    async def large():
        return models_pb2.ListModelsResponse(models=[models_pb2.ModelSummary(reason="x" * (3 * MIB))])

    with Served(large, send_seconds=0.5) as it, Stranger(it.address, window=0) as stranger:
        for _ in range(2):
            stranger.send(stranger.ask(LIST), message(b""))
        until(lambda: len(it.calls) == 2)
        assert {call.code for call in it.calls} == {"CANCELLED"} and it.exchange.answers.held == 0
        with grpc.insecure_channel(it.address) as channel:
            assert len(next(asked(channel, [b""]))) > 3 * MIB
        until(lambda: len(stranger.ended) == 2)  # else gRPC would keep the answers for as long as the connection
        until(lambda: it.boundary.calls == 0)


def test_an_answer_takes_as_much_room_as_there_are_copies_of_it():
    async def large():
        return models_pb2.ListModelsResponse(models=[models_pb2.ModelSummary(reason="x" * MIB)])

    with Served(large, send_seconds=5.0) as it, Stranger(it.address, window=0) as stranger:
        stranger.send(stranger.ask(LIST), message(b""))
        until(lambda: it.exchange.answers.held)
        assert WRITTEN * MIB <= it.exchange.answers.held < (WRITTEN + 0.1) * MIB


def test_too_many_parts_are_refused_before_the_request_is_read():
    request = explain_pb2.ExplainRequest(layer_cam={}, image={"tensor": {"shape": [1] * 30_000}})
    with served(bundled()) as server, grpc.insecure_channel(server.address) as channel:
        error = refused(asked(channel, [request.SerializeToString()], EXPLAIN))
        assert error.reason == "TOO_MANY_PARTS"


def test_a_call_that_is_cancelled_from_within_has_a_status():
    async def broken():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with Served(broken) as it, grpc.insecure_channel(it.address) as channel:
        error = refused(asked(channel, [b""]))
        assert isinstance(error, UnavailableError) and error.reason == "INTERRUPTED"
        assert it.calls[0].reason == "INTERRUPTED"


def test_what_others_cancel_is_told_as_unavailable():
    class Cancelling(explainer_pb2_grpc.ModelServiceServicer):
        asked = 0

        def ListModels(self, request, context):
            self.asked += 1
            if self.asked < 3:
                context.abort(grpc.StatusCode.CANCELLED, "the connection was reset")
            return models_pb2.ListModelsResponse()

    server, service = grpc.server(ThreadPoolExecutor(2)), Cancelling()
    explainer_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", retries=0) as client, pytest.raises(UnavailableError) as caught:
            client.models()
        assert caught.value.reason == "INTERRUPTED"
        with Client(f"127.0.0.1:{port}", retries=3) as client:
            assert list(client.models()) == [] and service.asked == 3
    finally:
        server.stop(0).wait()


def test_health_waits_for_nobody_who_watches():
    with Served(nothing) as it, grpc.insecure_channel(it.address) as channel, ExitStack() as stack:
        stub = health_pb2_grpc.HealthStub(channel)
        idle = [stub.Watch(health_pb2.HealthCheckRequest(service="net")) for _ in range(8)]
        stack.callback(lambda: [call.cancel() for call in idle])
        seen = stub.Watch(health_pb2.HealthCheckRequest(service="net"))
        assert next(seen).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

        async def change():
            for i in range(20_001):
                it.health.set("net", serves=i % 2 == 0)
                if i % 100 == 0:
                    await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(change(), it.loop).result(60)
        until(lambda: next(seen).status == health_pb2.HealthCheckResponse.SERVING)
        assert stub.Check(health_pb2.HealthCheckRequest(service="net")).status == 1
        assert dict(stub.List(health_pb2.HealthListRequest()).statuses)["net"].status == 1
        it.loop.call_soon_threadsafe(it.health.stop)
        until(lambda: next(seen).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_one_address_has_so_many_watches():
    with Served(nothing) as it, grpc.insecure_channel(it.address) as channel, ExitStack() as stack:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service="net")) for _ in range(WATCHES_PER_PEER)]
        stack.callback(lambda: [call.cancel() for call in watches])
        assert all(next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN for watch in watches)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(health_pb2.HealthCheckRequest(service="net")))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.List(health_pb2.HealthListRequest()) is not None


def test_pictures_that_do_not_fit_into_the_server_are_told_so():
    with served(bundled(), "--max-gateway-bytes", str(16 * MIB)) as server, Client(server.address) as client:
        assert client.explain(STAR, Saliency(), model="shapes").predictions
        with pytest.raises(InvalidArgumentError, match="this server has 7; send smaller ones") as caught:
            client.explain(Pil.new("RGB", (1300, 1200)), Saliency(), model="shapes")
        assert caught.value.reason == "PICTURE_TOO_LARGE"


def test_answers_take_no_room_once_they_are_sent():
    with served(bundled(), "--max-gateway-bytes", str(4 * MIB)) as server, Client(server.address) as client:
        answers = [client.explain(STAR, Saliency(), model="shapes") for _ in range(40)]
        assert sum(answer.message.ByteSize() for answer in answers) > MIB, "more than the room for them"


def test_connections_beyond_the_limit_are_refused_and_the_others_serve_on():
    with served(bundled(), "--max-connections", "2") as server, ExitStack() as stack:
        host, _, port = server.address.rpartition(":")
        with Client(server.address) as client:
            client.models()
            idle = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(3)]
            until(lambda: any(_closed(one) for one in idle))
            assert client.models()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_sigterm_ends_the_server_whatever_strangers_leave_open(workers):
    options = ("--workers", workers, "--grace-seconds", "1", "--metrics-port", "0")
    with served_as_is(bundled(), *options) as server, ExitStack() as stack:
        host, _, port = server.address.rpartition(":")
        for _ in range(5):
            stack.enter_context(socket.create_connection((host, int(port))))
            stack.enter_context(deaf(server.address, LIST))
            stack.enter_context(deaf(server.address, "/grpc.health.v1.Health/Watch"))
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        stub = health_pb2_grpc.HealthStub(channel)
        open_ = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(5)]
        open_ += [asked(channel, waiting(), EXPLAIN) for _ in range(5)]
        stack.callback(lambda: [call.cancel() for call in open_])
        assert next(open_[0]).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def _closed(one):
    one.setblocking(False)
    try:
        while one.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
