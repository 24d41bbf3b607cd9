"""The SDK's calls of several requests, without a server: what they begin and when; and that all clients have them."""

import asyncio
import inspect
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from lightwell import AsyncClient, Client, GradCam, Predictions, Saliency, calls
from lightwell.aio import AsyncStream
from lightwell.client import Stream
from lightwell.results import Explanation
from lightwell.sheets.plan import Plan
from lightwell.transport.errors import InvalidArgumentError, UnavailableError, error_for
from lightwell.v1 import explain_pb2
from lightwell.waiting import Waiting
from lightwell_server.local import Local

NOISE = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
WRONG = error_for(grpc.StatusCode.INVALID_ARGUMENT, "no such layer")
GONE = error_for(grpc.StatusCode.UNAVAILABLE, "no server")


def answered(request, classes=(7, 3, 5)):
    """An answer that names the target that was asked for, or else the class of the highest score."""
    response = explain_pb2.ExplainResponse(resolved=request)
    asked = request.target
    response.target.target.class_index = asked.class_index if asked.WhichOneof("target") else classes[0]
    response.provenance.model, response.provenance.version = "net", "4"
    for index in classes[: request.output.predictions]:
        response.predictions.add(class_index=index)
    return Explanation(response, request.image)


class Fake(Waiting):
    """Answers requests itself, and notes how many are in flight; `fails` says of a request which error it ends in."""

    def __init__(self, fails=lambda request: None):
        self.requests, self.cancelled, self.flying, self.most = [], [], 0, 0
        self._fails = fails

    def _begun(self, request):
        self.requests.append(request)
        self.flying += 1
        self.most = max(self.most, self.flying)
        return SimpleNamespace(answer=lambda: self.answer(request), cancel=lambda: self.cancelled.append(request))

    def answer(self, request):
        self.flying -= 1
        if (error := self._fails(request)) is not None:
            raise error
        return answered(request)


def test_one_target_is_one_request():
    fake = Fake()
    found = fake._result(calls.explain(NOISE, Saliency(), None, {"model": "net"}))
    assert found.target.target.class_index == 7 and len(fake.requests) == 1


def test_several_targets_follow_on_the_first_answer():
    fake = Fake()
    found = fake._result(calls.explain(NOISE, Saliency(), 3, {}))
    assert [each.target.target.class_index for each in found] == [7, 3, 5]
    first, *rest = fake.requests
    assert not first.target.WhichOneof("target") and first.output.predictions == 3
    assert {(request.model, request.version) for request in rest} == {("net", "4")}, "the version that answered first"


def test_images_are_answered_in_order_with_so_many_in_flight():
    fake = Fake()
    images = [np.full((3, 8, 8), i / 10, np.float32) for i in range(10)]
    given = list(fake._given(calls.explain_all(iter(images), Saliency(), 3, "raise", {})))
    sent = [each.source.tensor.data[:4] for each in given]
    assert sent == [np.float32(i / 10).tobytes() for i in range(10)] and fake.most == 3


def test_who_leaves_early_cancels_what_is_in_flight():
    fake = Fake()
    given = fake._given(calls.explain_all([NOISE] * 10, Saliency(), 4, "raise", {}))
    next(given)
    given.close()
    assert len(fake.requests) == 4 and fake.cancelled == fake.requests[1:]


@pytest.mark.parametrize("concurrency", [1, 2, 9])
def test_what_is_wrong_with_an_image_is_raised_in_its_turn(concurrency):
    fake, given = Fake(), []
    with pytest.raises(OSError, match="missing"):
        images = [NOISE, NOISE, "missing.png", NOISE]
        for answer in fake._given(calls.explain_all(images, Saliency(), concurrency, "raise", {})):
            given.append(answer)
    assert len(given) == 2 and not fake.cancelled


def test_an_answer_that_fails_ends_the_rest():
    fake = Fake(lambda request: WRONG if len(fake.requests) == 2 else None)
    with pytest.raises(InvalidArgumentError):
        list(fake._given(calls.explain_all([NOISE] * 5, Saliency(), 1, "raise", {})))
    assert len(fake.requests) == 2


@pytest.mark.parametrize("concurrency", [1, 2, 9])
def test_errors_may_take_the_place_of_their_images(concurrency):
    fake = Fake(lambda request: WRONG if len(fake.requests) == 2 and request is fake.requests[1] else None)
    images = [NOISE, NOISE, "missing.png", NOISE]
    given = list(fake._given(calls.explain_all(images, Saliency(), concurrency, "return", {})))
    assert isinstance(given[2], FileNotFoundError) and isinstance(given[3], Explanation) and len(given) == 4
    assert isinstance(given[0], Explanation) and not fake.flying


@pytest.mark.parametrize("concurrency", [1, 9])
def test_an_error_of_every_request_is_raised_all_the_same(concurrency):
    fake = Fake(lambda request: GONE)
    with pytest.raises(UnavailableError):
        list(fake._given(calls.explain_all([NOISE] * 100, Saliency(), concurrency, "return", {})))
    assert len(fake.requests) <= concurrency


def test_an_error_of_the_images_themselves_is_raised():
    def images():
        yield NOISE
        raise OSError("the disk is gone")

    fake, given = Fake(), []
    with pytest.raises(OSError, match="the disk is gone"):
        for answer in fake._given(calls.explain_all(images(), Saliency(), 4, "return", {})):
            given.append(answer)
    assert len(given) == 1


def test_what_happens_to_errors_is_one_of_two():
    with pytest.raises(ValueError, match="on_error is 'ignore'; give one of 'raise', 'return'"):
        list(Fake()._given(calls.explain_all([NOISE], Saliency(), 1, "ignore", {})))


def test_a_cell_that_fails_tells_why_in_its_place():
    fake = Fake(lambda request: WRONG if request.WhichOneof("method") == "grad_cam" else None)
    plan = Plan([NOISE, NOISE], [Saliency(), GradCam()], (None,), "", {}, {})
    sheet = fake._result(calls.sheet(plan))
    for row in sheet.answers:
        assert isinstance(row[0], Explanation) and row[1] is WRONG
    assert sheet.answers[0][0].source is sheet.rows[0].image, "one image for a row, not one for each cell"


def test_an_error_that_no_cell_would_be_spared_ends_a_sheet():
    fake = Fake(lambda request: GONE)
    with pytest.raises(UnavailableError):
        fake._result(calls.sheet(Plan([NOISE] * 100, Saliency(), (None,), "", {}, {})))
    assert len(fake.requests) < 50


def test_a_sheet_of_the_highest_scores_asks_for_them_first():
    fake = Fake()
    sheet = fake._result(calls.sheet(Plan(NOISE, Saliency(), 2, "", {}, {})))
    assert fake.requests[0].predictions == Predictions(k=2) and len(fake.requests) == 2
    assert [row.target for row in sheet.rows] == [None], "an answer without predictions says nothing of classes"


def test_an_event_loop_drives_them_alike():
    class Loop(AsyncClient):
        def __init__(self):
            self.fake = Fake()

        async def _answer(self, make):
            request = make()
            self.fake._begun(request)
            await asyncio.sleep(0)
            return self.fake.answer(request)

    async def asked():
        loop = Loop()
        found = await loop.explain(NOISE, Saliency(), targets=3)
        several = [each async for each in loop.explain_all([NOISE] * 7, Saliency(), concurrency=2)]
        sheet = await loop.sheet(NOISE, [Saliency(), GradCam()])
        return loop.fake, found, several, sheet

    fake, found, several, sheet = asyncio.run(asked())
    assert [each.target.target.class_index for each in found] == [7, 3, 5]
    assert len(several) == 7 and len(sheet.answers[0]) == 2 and not fake.flying


def public(cls):
    return {name: f for name, f in vars(cls).items() if inspect.isfunction(f) and not name.startswith("_")}


def shown(function, *left_out):
    """A signature in words, without what an event loop changes."""
    signature = inspect.signature(function)
    kept = [str(p) for name, p in signature.parameters.items() if name not in left_out]
    returns = str(signature.return_annotation)
    return kept, returns.replace("AsyncIterator", "Iterator").replace("AsyncStream", "Stream")


@pytest.mark.parametrize("name", sorted(public(Client)))
def test_an_event_loop_has_the_same_call(name):
    own, other = public(Client)[name], public(AsyncClient)[name]
    assert shown(own) == shown(other) and inspect.getdoc(own) == inspect.getdoc(other)


def test_an_event_loop_has_no_other_call():
    assert set(public(Client)) == set(public(AsyncClient))
    assert set(public(Stream)) == set(public(AsyncStream))


@pytest.mark.parametrize("name", sorted(public(Local)))
def test_a_model_in_this_process_has_the_same_call(name):
    own, other = public(Client)[name], public(Local)[name]
    assert shown(own, "model", "models", "version") == shown(other)
    if name != "close":
        assert inspect.getdoc(own) == inspect.getdoc(other)
