"""What was added to a copy of the project works through each of its ways. Run there by tests/test_sockets.py."""

import io
import time

import grpc
import numpy as np
import pytest
import torch
from PIL import Image as Pil
from torch import nn

from lightwell import Client, InvalidArgumentError, LightwellError, NotApplicableError
from lightwell.demo import SAMPLES
from lightwell.requests import synthesize_request
from lightwell.v1 import explainer_pb2_grpc
from lightwell.v1.explain_pb2 import Contrasted, Peaks, Prior, Stylized
from lightwell.v1.models_pb2 import CountRequest
from lightwell.v1.synthesize_pb2 import Hops
from lightwell_server.gateway.prices import kind
from lightwell_server.gateway.registry import ModelVersion
from lightwell_server.local import Local
from lightwell_server.models.card import Card
from tests.commands import run
from tests.nets import export, seeded
from tests.serving import bundled_and_flat, served

STAR = SAMPLES / "star.png"
SIDE = 96
CARD = f"[input]\nsize = [{SIDE}, {SIDE}]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"


class Other(nn.Module):
    """A classifier of the bundled model's size."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x):
        return self.body(x)


class Inverted(nn.Module):
    """A stylizer."""

    def __init__(self):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x):
        return 1 + self.sign * x


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = bundled_and_flat(tmp_path_factory.mktemp("repository"))
    for net, name, more in ((seeded(Other), "other", ""), (Inverted().eval(), "inverted", 'kind = "stylizer"\n')):
        directory = root / name / "1"
        directory.mkdir(parents=True)
        export(net, "scripted", directory, torch.rand(2, 3, SIDE, SIDE)).rename(directory / "model.pt")
        (directory / "card.toml").write_text(more + CARD)
    return root


@pytest.fixture(scope="module", params=[("--workers", "0"), ("--workers", "1")], ids=["one process", "a worker"])
def server(request, repository):
    with served(repository, *request.param, "--max-request-steps", "500") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def local(repository):
    path = repository / "other" / "1" / "model.pt"
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], "mean": [0, 0, 0], "std": [1, 1, 1]}})
    grey = Card.model_validate({"input": {"size": [SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3}})
    with (
        Local(path, card) as same,
        Local(path, grey) as other,
        Local(path, card, further={"other": same, "of its own card": other}) as opened,
    ):
        yield opened


def test_a_method_without_an_image(client, local):
    found = client.explain(None, Prior(), model="other", target=1)
    assert found.map.shape == (SIDE, SIDE) and found.map.any() and found.message.resolved.prior.value == 0.5
    assert np.allclose(local.explain(None, Prior(), target=1).map, found.map, atol=1e-6)
    assert client.estimate(Prior(), model="other").rows == local.estimate(Prior()).rows == 1
    assert found.picture().size == (SIDE, SIDE)
    drawn = client.explain(None, Prior(), model="other", pictures=("map", "overlay")).message
    assert [picture.name for picture in drawn.pictures] == ["map"] and "No overlay was drawn" in drawn.warnings[
        0
    ].message
    with pytest.raises(InvalidArgumentError, match="looks at no image"):
        client.explain(STAR, Prior(), model="other")


def test_a_method_of_a_stylizer(client):
    found = client.explain(STAR, Stylized(), model="inverted")
    sent, made = found.tensors["pictures"]
    assert np.allclose(sent + made, 1, atol=1e-6) and found.shown().width > 2 * SIDE
    assert client.estimate(Stylized(), STAR, model="inverted").rows == 1
    with pytest.raises(NotApplicableError, match="is a classifier, and stylized needs a stylizer"):
        client.explain(STAR, Stylized(), model="shapes")
    told = {each.method: each for each in client.model("inverted").methods}
    assert told["stylized"].applies and not told["peaks"].applies


def test_a_method_with_two_models(client, local):
    found = client.explain(STAR, Contrasted(other="other"), model="shapes", target="star")
    resolved = found.message.resolved
    assert resolved.contrasted.other == "other@1" and found.provenance.further_digests["other"]
    again = client.explain(STAR, resolved.contrasted, model="shapes", target="star")
    assert np.allclose(again.map, found.map, atol=1e-6)
    nothing = client.explain(STAR, Contrasted(other="other@1"), model="other", target=0)
    assert not nothing.map.any() and not local.explain(STAR, Contrasted(other="other"), target=0).map.any()
    assert local.explain(STAR, Contrasted(other="of its own card"), target=0).map.any()
    assert client.estimate(Contrasted(other="other"), STAR, model="shapes").rows == 2
    for name, wrong in (("inverted", "is a stylizer; name a classifier"), ("flat", "takes another size")):
        with pytest.raises(InvalidArgumentError, match=wrong):
            client.explain(STAR, Contrasted(other=name), model="shapes")
    with pytest.raises(InvalidArgumentError, match=r"contrasted\.other: Field required"):
        client.explain(STAR, Contrasted(), model="shapes")
    with pytest.raises(LightwellError, match="no model 'nobody'"):
        client.explain(STAR, Contrasted(other="nobody"), model="shapes")
    with pytest.raises(InvalidArgumentError, match="no model 'nobody'"):
        local.explain(STAR, Contrasted(other="nobody"))


def test_a_method_whose_result_is_points(client, local):
    found = client.explain(STAR, Peaks(count=3), model="shapes", pictures=("overlay",))
    assert found.tensors["places"].shape == (3, 2)
    drawn = np.asarray(Pil.open(io.BytesIO(found.message.pictures[0].png)).convert("RGB"))
    assert np.array_equal(drawn, np.asarray(found.overlay().convert("RGB")))
    assert (drawn != np.asarray(found.original.convert("RGB"))).any()
    assert local.explain(STAR, Peaks()).tensors["places"].shape == (5, 2)
    assert client.estimate(Peaks(), STAR, model="shapes").gradients == 1


def test_a_method_that_plans_queries(client, local):
    made = client.synthesize(Hops(queries=9), model="shapes", target="star")
    assert [step.step for step in made] == list(range(1, 10))
    assert made.result().image.size == (SIDE, SIDE) and made.result().measures["raised"] >= 0
    told = client.estimate(Hops(queries=50, until_raised=True), model="shapes", target="star")
    assert (told.rows, told.steps, told.may_stop_early) == (50, 50, True)
    assert local.estimate(Hops(queries=7)).steps == 7
    assert local.synthesize(Hops(queries=3)).result().image.size == (SIDE, SIDE)
    with pytest.raises(InvalidArgumentError, match="plans 501 steps; this server runs 500") as caught:
        client.synthesize(Hops(queries=501), model="shapes").result()
    assert caught.value.violations[0][0] == "hops.queries"


def test_its_price_goes_by_its_queries():
    few, many = (synthesize_request(Hops(queries=count)) for count in (5, 50))
    entry = ModelVersion("shapes", "1")
    assert kind(few, entry)[:2] == kind(many, entry)[:2] and kind(many, entry)[2] == 50


def command(server, *words):
    code, out, error = run(server.address, *words)
    assert code == 0, error
    return out


def test_the_command_line_knows_them_all(server, tmp_path):
    ask = ("--model", "shapes", "--out", tmp_path)
    command(server, "explain", "-m", "prior", *ask)
    command(server, "explain", STAR, "-m", "peaks", *ask)
    command(server, "explain", STAR, "-m", "contrasted", "-p", "other=other", *ask)
    command(server, "explain", STAR, "-m", "stylized", "--model", "inverted", "--out", tmp_path)
    command(server, "synthesize", "-m", "hops", "--model", "shapes", "--out", tmp_path / "hops.png")
    written = {path.name: Pil.open(path).size for path in tmp_path.iterdir()}
    names = {"prior.png", "star_peaks.png", "star_contrasted.png", "star_stylized.png", "hops.png"}
    assert set(written) == names
    assert "1 row with gradients" in command(server, "estimate", "-m", "prior", "--model", "shapes")


@pytest.fixture
def count(server):
    with grpc.insecure_channel(server.address) as channel:
        yield explainer_pb2_grpc.ModelServiceStub(channel).Count


def test_a_call_that_streams(count, client):
    began = time.monotonic()
    numbers = count(CountRequest(model="shapes", to=4, seconds=0.3))
    first = next(numbers)
    assert first.number == 1 and first.layers and time.monotonic() - began < 0.9, "before all are there"
    assert [one.number for one in numbers] == [2, 3, 4]
    with pytest.raises(grpc.RpcError, match="0 is less than 1"):
        next(count(CountRequest(model="shapes")))
    with pytest.raises(grpc.RpcError, match="no model 'nobody'"):
        next(count(CountRequest(model="nobody", to=1)))


def test_it_is_a_job_that_ends_with_its_caller(count, client):
    numbers = count(CountRequest(model="shapes", to=1000, seconds=0.05))
    next(numbers)
    [job] = client.jobs()
    assert job.model == "shapes"
    numbers.cancel()
    deadline = time.monotonic() + 20
    while client.jobs():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_has_a_deadline_and_an_operator_may_stop_it(count, client):
    with pytest.raises(grpc.RpcError) as caught:
        list(count(CountRequest(model="shapes", to=1000, seconds=0.05), timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    numbers = count(CountRequest(model="shapes", to=1000, seconds=0.05))
    next(numbers)
    client.stop_job(client.jobs()[-1].number)
    with pytest.raises(grpc.RpcError) as caught:
        list(numbers)
    assert caught.value.code() is grpc.StatusCode.ABORTED


def test_it_needs_the_right_that_it_says(repository, tmp_path):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        '[anna]\ntoken = "anna-anna-anna-anna"\n[otto]\ntoken = "otto-otto-otto-otto"\nrights = ["admin"]\n'
    )
    with served(repository, "--tokens", tokens) as running, grpc.insecure_channel(running.address) as channel:
        count = explainer_pb2_grpc.ModelServiceStub(channel).Count
        request = CountRequest(model="shapes", to=1)
        with pytest.raises(grpc.RpcError) as caught:
            next(count(request, metadata=[("authorization", "Bearer anna-anna-anna-anna")]))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert next(count(request, metadata=[("authorization", "Bearer otto-otto-otto-otto")])).number == 1
