"""The gateway's pipeline without a transport: a front of any kind has a call, and reads what is answered."""

import asyncio
from contextlib import aclosing

import pytest

from lightwell import GradCam, Occlusion, Pgd, Saliency
from lightwell.demo import SAMPLES
from lightwell.requests import estimate_request, explain_request, synthesize_request
from lightwell.serving import bundled
from lightwell.v1 import explain_pb2, models_pb2, synthesize_pb2
from lightwell_server.config import Settings
from lightwell_server.errors import Aborted, DeadlineExceeded, InvalidArgument, NotFound
from lightwell_server.gateway.admission import Admission
from lightwell_server.gateway.codec_pool import CodecPool
from lightwell_server.gateway.pipeline import Pipeline
from lightwell_server.gateway.registry import ModelRegistry, State
from lightwell_server.requests.budget import Budget
from lightwell_server.requests.call import Call, current
from lightwell_server.runtime.device import Device
from lightwell_server.runtime.queries import queries

MIB = 2**20
STAR = SAMPLES / "star.png"


class Front:
    """A pipeline in front of a device of this process, with the bundled model, and a call of its own."""

    def __init__(self):
        self.device = Device(Settings(repository=bundled()), "cpu")
        self.registry = ModelRegistry(bundled())
        self.admission = Admission(lambda: self.device.workers, 8, 8, 60.0, 10_000)
        codec, answers = CodecPool(256 * MIB), Budget(256 * MIB, "the answers")
        self.pipeline = Pipeline(self.registry, self.device, self.admission, codec, answers, 60.0, 10**7)

    async def __aenter__(self):
        entry = self.registry.entry("shapes", "1")
        entry.described, entry.state = await self.device.load("shapes", "1"), State.MODEL_STATE_READY
        current.set(Call("an-id", "any", "somebody"))
        return self

    async def __aexit__(self, *_):
        await current.get().kept.aclose()
        await self.device.stop()

    async def run(self, request, left=None, watched=False):
        async with aclosing(self.pipeline.run(request, left, watched)) as answers:
            return [response async for response in answers]

    async def query(self, rpc, request, left=None):
        async with aclosing(self.pipeline.query(queries()[rpc], request, left)) as answers:
            return [response async for response in answers]


def asked(test):
    """Runs a coroutine with a front."""

    async def asked_():
        async with Front() as front:
            await test(front)

    asyncio.run(asked_())


def test_an_explanation():
    async def test(front):
        request = explain_request(STAR, GradCam(), pictures=("overlay",))
        (response,) = await front.run(request)
        assert response.target.label == "star" and response.pictures[0].png.startswith(b"\x89PNG")
        assert current.get().model == "shapes" and current.get().method == "grad_cam"
        assert not front.admission.requests

    asked(test)


def test_progress_and_a_synthesis():
    async def test(front):
        *passes, last = await front.run(explain_request(STAR, Occlusion(stride=4)), watched=True)
        assert isinstance(last, explain_pb2.ExplainResponse) and passes
        *steps, last = await front.run(synthesize_request(Pgd(steps=3, stop_early=False), image=STAR), watched=True)
        assert [step.step for step in steps] == [1, 2, 3]
        assert isinstance(last, synthesize_pb2.SynthesizeResult) and last.png

    asked(test)


def test_queries():
    async def test(front):
        (told,) = await front.query("Estimate", estimate_request(Occlusion(window=8, stride=8), STAR))
        assert told.applies and told.cost.rows == 12 * 12 + 1 and told.explain.model == "shapes"
        assert current.get().method == "occlusion"
        (weights,) = await front.query("GetFilters", models_pb2.GetFiltersRequest(picture=True))
        assert weights.layer == "features.0" and weights.png
        assert not front.admission.requests

    asked(test)


def test_what_is_wrong_raises():
    async def test(front):
        with pytest.raises(NotFound, match="nobody"):
            await front.run(explain_request(STAR, Saliency(), model="nobody"))
        with pytest.raises(InvalidArgument, match="set one of"):
            await front.query("Estimate", estimate_request(Saliency(), STAR).__class__())
        with pytest.raises(DeadlineExceeded):
            await front.run(explain_request(STAR, Occlusion(stride=1)), left=0.0)

    asked(test)


def test_an_operator_stops_one():
    async def test(front):
        request = synthesize_request(Pgd(steps=9_000, stop_early=False), image=STAR)
        async with aclosing(front.pipeline.run(request, None, watched=True)) as answers:
            await anext(answers)
            (admitted,) = front.admission.requests
            admitted.stop()
            with pytest.raises(Aborted):
                async for _ in answers:
                    pass
        assert not front.admission.requests

    asked(test)
