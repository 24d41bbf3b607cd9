"""The clients against a real server: explanations of several targets and with progress, estimates, many images,
pictures as pixels, administration, credentials, and what a type checker makes of them."""

import asyncio
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

import lightwell
from lightwell import (
    AbortedError,
    AsyncClient,
    CancelledCallError,
    Client,
    ForbiddenError,
    GradCam,
    InvalidArgumentError,
    LightwellError,
    NotFoundError,
    Occlusion,
    Pgd,
    Saliency,
    Style,
    StyleTransfer,
    UnauthenticatedError,
    UnavailableError,
)
from lightwell.images import to_message
from lightwell.v1 import admin_pb2
from tests.guarded import LOOKER, TOKEN, guarded
from tests.serving import bundled_and_flat, served
from tests.terminals import on_terminal

SAMPLES = Path(lightwell.__file__).parent / "samples"
STAR, HEART = SAMPLES / "star.png", SAMPLES / "heart.png"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(bundled_and_flat(tmp_path_factory.mktemp("repository")), "--threads", "1") as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


def in_loop(address, call, **settings):
    """What `call` gives for an `AsyncClient`."""

    async def run():
        async with AsyncClient(address, **settings) as client:
            return await call(client)

    return asyncio.run(run())


@pytest.fixture(params=["Client", "AsyncClient"])
def top(request, server, client):
    """`explain` of either client."""
    if request.param == "Client":
        return client.explain
    return lambda *words, **options: in_loop(server.address, lambda client: client.explain(*words, **options))


def test_the_classes_on_top_are_explained_each(top, client):
    seen = top(STAR, Saliency(), model="shapes", targets=4, reproducible=True)
    classes = [one.target.target.class_index for one in seen]
    expected = client.explain(STAR, Saliency(), model="shapes", predictions=4).predictions
    assert classes == [prediction.class_index for prediction in expected]
    assert seen[0].target.label == "star"
    for one in seen:
        alone = client.explain(
            STAR, Saliency(), model="shapes", target=one.target.target.class_index, reproducible=True
        )
        assert np.array_equal(one.map, alone.map) and len(one.predictions) == 4
    scores = [one.target.score for one in seen]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4


def test_there_are_no_more_targets_than_classes(top):
    seen = top(STAR, GradCam(), model="shapes", targets=1000, readout="probability")
    assert len({one.target.target.class_index for one in seen}) == len(seen) == 15
    assert sum(one.target.probability for one in seen) == pytest.approx(1, abs=1e-5)


def test_targets_and_a_target_exclude_each_other(client):
    with pytest.raises(ValueError, match="leave target out"):
        client.explain(STAR, GradCam(), model="shapes", targets=2, target="star")
    with pytest.raises(ValueError, match="targets is 0"):
        client.explain(STAR, GradCam(), model="shapes", targets=0)


def test_an_explanation_tells_how_far_it_is(server, client):
    method = Occlusion(stride=4)
    options = {"model": "shapes", "target": "star", "reproducible": True}

    async def streamed(client):
        stream = client.explain_stream(STAR, method, **options)
        return [(progress.step, progress.steps) async for progress in stream], await stream.result()

    stream = client.explain_stream(STAR, method, **options)
    whole = client.explain(STAR, method, **options)
    for progress, seen in [
        ([(one.step, one.steps) for one in stream], stream.result()),
        in_loop(server.address, streamed),
    ]:
        windows = [(step, steps) for step, steps in progress if steps > 1]
        assert len(windows) > 2 and windows == sorted(windows) and windows[-1] == (17 * 17, 17 * 17)
        assert np.array_equal(seen.map, whole.map) and seen.overlay().size == (192, 192)


def test_a_stream_that_is_left_is_cancelled(server, client):
    for _ in (stream := client.explain_stream(STAR, Occlusion(stride=1), model="shapes")):
        break
    with pytest.raises(LightwellError, match="ancelled"):
        stream.result()


def test_an_estimate_is_what_the_request_then_costs(server, client):
    method = Occlusion(stride=8)
    told = client.estimate(method, STAR, model="shapes", target="star")
    assert told.applies and not told.reason and not told.may_stop_early
    assert (told.resolved.occlusion.stride, told.resolved.occlusion.window) == (8, 32)
    windows = max(p.step for p in client.explain_stream(STAR, method, model="shapes", target="star"))
    assert told.rows == 1 + windows == 1 + 9 * 9  # and the image itself
    assert 0 < told.memory_bytes < told.memory_limit_bytes and told.gradients == 0
    for _ in range(5):  # until the server knows what such rows cost
        client.explain(STAR, method, model="shapes", target="star")
    assert client.estimate(method, STAR, model="shapes", target="star").device_seconds > 0
    again = in_loop(server.address, lambda client: client.estimate(method, STAR, model="shapes", target="star"))
    assert (again.rows, again.memory_bytes, again.resolved) == (told.rows, told.memory_bytes, told.resolved)


def test_a_synthesis_is_estimated_by_its_methods_type(client):
    attack = client.estimate(Pgd(steps=7), STAR, model="shapes")
    assert attack.may_stop_early and attack.steps == attack.gradients == 7 and attack.resolved.pgd.steps == 7
    style = StyleTransfer(styles=[Style(image=to_message(HEART))], steps=30, size=64)
    assert client.estimate(style, STAR, model="shapes").steps == 30


def test_a_method_that_does_not_apply_is_estimated_as_such(client):
    told = client.estimate(GradCam(), STAR, model="flat")
    assert not told.applies and "no layer with height and width" in told.reason
    assert told.resolved is None and told.rows == told.steps == told.memory_bytes == 0
    with pytest.raises(InvalidArgumentError):
        client.estimate(Occlusion(stride=0), STAR, model="shapes")
    with pytest.raises(TypeError, match="is no method"):
        client.estimate(Style(), STAR)


BAD = {
    "unreadable": (Path("nowhere.png"), OSError),
    "no picture": (b"nothing", InvalidArgumentError),
    "no image at all": (3.5, ValueError),
}


@pytest.mark.parametrize(("bad", "error"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("concurrency", [1, 2, 32])
def test_a_bad_image_raises_when_its_turn_comes(server, client, bad, error, concurrency):
    images = [STAR, HEART, STAR, bad, STAR]
    options = {"model": "shapes", "concurrency": concurrency}

    async def all_of(client):
        seen = []
        with pytest.raises(error):
            async for one in client.explain_all(images, GradCam(), **options):
                seen.append(one.target.label)
        return seen

    seen = []
    with pytest.raises(error):
        for one in client.explain_all(images, GradCam(), **options):
            seen.append(one.target.label)
    assert seen == in_loop(server.address, all_of) == ["star", "heart", "star"]


def test_errors_come_in_the_place_of_their_images(server, client):
    images = [STAR, "missing.png", HEART, np.zeros((4, 5), complex), STAR]

    async def all_of(client):
        return [one async for one in client.explain_all(images, GradCam(), model="shapes", on_error="return")]

    for found in (
        list(client.explain_all(images, GradCam(), model="shapes", on_error="return")),
        in_loop(server.address, all_of),
    ):
        labels = [one.target.label if isinstance(one, lightwell.Explanation) else type(one) for one in found]
        assert labels == ["star", FileNotFoundError, "heart", ValueError, "star"]


def test_no_more_images_are_read_than_are_asked_about(server, client):
    read = []

    def images():
        for number in range(40):
            read.append(number)
            yield STAR

    options = {"concurrency": 5, "model": "shapes"}
    ahead = [len(read) - done for done, _ in enumerate(client.explain_all(images(), GradCam(), **options))]
    read.clear()

    async def all_of(client):
        ahead = []
        async for _ in client.explain_all(images(), GradCam(), **options):
            ahead.append(len(read) - len(ahead))
        return ahead

    assert max(ahead) == max(in_loop(server.address, all_of)) == 5


def test_an_image_that_is_slow_to_read_does_not_hold_up_the_loop(server, tmp_path):
    """A pipe gives its bytes only when somebody has written them; here the loop itself does."""
    os.mkfifo(pipe := tmp_path / "pipe.png")
    wrote = []

    def write(who):
        pipe.write_bytes(STAR.read_bytes())
        wrote.append(who)

    async def explain(client):
        task = asyncio.create_task(client.explain(pipe, GradCam(), model="shapes"))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(write, "the loop")
        return await task

    rescue = threading.Timer(20, write, ["the rescue"])
    rescue.start()
    try:
        assert in_loop(server.address, explain).target.label == "star"
    finally:
        rescue.cancel()
    assert wrote == ["the loop"]


def test_closing_a_client_ends_its_calls(server):
    client = Client(server.address)
    stream = client.explain_stream(STAR, Occlusion(stride=1), model="shapes")
    answers = client.explain_all([STAR] * 3, Occlusion(stride=1), model="shapes", concurrency=2)
    threading.Timer(0.5, client.close).start()
    with pytest.raises(CancelledCallError):
        next(answers)
    with pytest.raises(CancelledCallError):
        stream.result()

    async def closed():
        client = AsyncClient(server.address)
        call = asyncio.create_task(client.explain(STAR, Occlusion(stride=1), model="shapes"))
        stream = asyncio.create_task(client.explain_stream(STAR, Occlusion(stride=1), model="shapes").result())
        await asyncio.sleep(0.5)
        await client.close()
        return await asyncio.gather(call, stream, return_exceptions=True)

    assert [type(error) for error in asyncio.run(asyncio.wait_for(closed(), 30))] == [CancelledCallError] * 2


PROGRAM = """
import asyncio, sys
from lightwell import AsyncClient, Client, GradCam
address, image = sys.argv[1:]
def waiting():
    with Client(address) as client:
        return len(list(client.explain_all([image] * 7, GradCam(), model="shapes", progress=True)))
async def awaited():
    async with AsyncClient(address) as client:
        answers = client.explain_all([image] * 7, GradCam(), model="shapes", progress=True)
        return len([answer async for answer in answers])
print("done", {function})
"""


@pytest.mark.parametrize("function", ["waiting()", "asyncio.run(awaited())"])
def test_a_bar_is_shown_to_a_person(server, function):
    program = PROGRAM.replace("{function}", function)
    code, lines = on_terminal([sys.executable, "-c", program, server.address, str(STAR)])
    assert code == 0 and "done 7" in lines
    assert any("explaining" in line and "100%" in line for line in lines)


def test_pictures_as_pixels_are_those_of_the_files(client, tmp_path):
    options = {"image": STAR, "model": "shapes", "previews": 3, "reproducible": True}
    method = Pgd(steps=3, stop_early=False)
    files = client.synthesize(method, **options)
    pixels = client.synthesize(method, pixels=True, **options)
    shown = [[np.asarray(one.image) for one in stream if one.image is not None] for stream in (files, pixels)]
    assert len(shown[0]) == 3 and np.array_equal(*shown)
    made, bare = files.result(), pixels.result()
    assert made.message.png and not bare.message.png
    assert np.array_equal(made.image, bare.image) and bare.image.size == (96, 96)
    assert list(made.pictures) == list(bare.pictures) == ["difference", "difference_x10"]
    assert all(np.array_equal(picture, bare.pictures[name]) for name, picture in made.pictures.items())
    bare.save(tmp_path / "bare.png")
    assert np.array_equal(Pil.open(tmp_path / "bare.png"), made.image)
    assert np.array_equal(Pil.open(io.BytesIO(bare._repr_png_())), made.image)


@pytest.fixture(params=["Client", "AsyncClient"])
def operate(request, server, client):
    """Runs a call of either client, named with its arguments."""
    if request.param == "Client":
        return lambda name, *words: getattr(client, name)(*words)
    return lambda name, *words: in_loop(server.address, lambda client: getattr(client, name)(*words))


def test_an_operator_sees_the_server(operate, client):
    own = operate("status")
    assert own.server_version and own.up_seconds > 0 and not own.stopping and own.running == own.waiting == 0
    assert [worker.state for worker in own.workers] == [admin_pb2.WORKER_STATE_READY]
    assert list(own.models) == client.models() and {model.name for model in own.models} == {"shapes", "flat"}
    assert operate("jobs") == []


def test_an_operator_stops_a_job(operate, client):
    style = StyleTransfer(styles=[Style(image=to_message(HEART))], size=64, steps=10_000)
    stream = client.synthesize(style, image=STAR, model="shapes")
    progress = iter(stream)
    next(progress)
    [job] = operate("jobs")
    assert (job.method, job.state, job.attempts) == ("style_transfer", admin_pb2.JOB_STATE_RUNNING, 1)
    assert operate("stop_job", job.number) is None
    with pytest.raises(AbortedError) as caught:
        list(progress)
    assert caught.value.reason == "STOPPED" and caught.value.request_id == job.request_id
    with pytest.raises(NotFoundError):
        operate("stop_job", job.number)


def test_an_operator_lets_go_of_a_model_and_loads_it(operate, client):
    image = np.zeros((16, 16, 3), np.uint8)
    assert operate("unload_model", "flat", "1") is None
    with pytest.raises(NotFoundError):
        client.explain(image, Saliency(), model="flat")
    loaded = operate("load_model", "flat")
    assert (loaded.summary.name, loaded.summary.version, loaded.card.height) == ("flat", "1", 16)
    assert client.explain(image, Saliency(), model="flat").map.shape == (16, 16)
    with pytest.raises(NotFoundError):
        operate("load_model", "flat", "2")
    with pytest.raises(NotFoundError):
        operate("unload_model", "nothing", "1")


def test_each_call_has_a_name_of_its_own(client):
    names = []
    for _ in range(2):
        with pytest.raises(NotFoundError) as caught:
            client.model("nothing")
        names.append(caught.value.request_id)
    with pytest.raises(NotFoundError) as caught:
        list(client.explain_all([STAR], GradCam(), model="nothing"))
    names.append(caught.value.request_id)
    assert len(set(names)) == 3 and all(len(name) == 32 for name in names)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    with guarded(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def test_who_is_known_is_let_in(guard):
    tokens = iter([TOKEN] * 5)
    settings = {"tls": guard.ca, "certificate": (guard.certificate, guard.key), "token": lambda: next(tokens)}
    with Client(guard.address, **settings) as client:
        assert client.explain(STAR, GradCam()).target.label == "star"
        assert client.synthesize(Pgd(steps=1), image=STAR).result().image.size == (96, 96)
        assert [one.target.label for one in client.explain_all([HEART, STAR], GradCam())] == ["heart", "star"]
    assert in_loop(guard.address, lambda client: client.explain(HEART, GradCam()), **settings).target.label == "heart"
    assert not list(tokens)  # one for each call


@pytest.mark.parametrize(
    ("token", "error", "reason"),
    [(None, UnauthenticatedError, "TOKEN_MISSING"), ("a-token-nobody-has", UnauthenticatedError, "TOKEN_UNKNOWN"),
     (LOOKER, ForbiddenError, "RIGHT_MISSING")],
)  # fmt: skip
def test_others_are_told_why_they_are_not(guard, token, error, reason):
    settings = {"tls": str(guard.ca), "certificate": (guard.certificate, guard.key), "token": token}
    with Client(guard.address, **settings) as client:
        with pytest.raises(error) as caught:
            client.explain(STAR, GradCam())
        assert caught.value.reason == reason and caught.value.request_id
        with pytest.raises(error):
            client.synthesize(Pgd(), image=STAR).result()
    with pytest.raises(error) as caught:
        in_loop(guard.address, lambda client: client.models(), **settings)
    assert caught.value.request_id


def test_without_a_certificate_nobody_is_let_in(guard):
    with Client(guard.address, tls=guard.ca, token=TOKEN, retries=0) as client, pytest.raises(UnavailableError):
        client.models()
    with Client(guard.address, tls=True, token=TOKEN, retries=0) as client, pytest.raises(UnavailableError):
        client.models()
    with pytest.raises(ValueError, match="no certificate in it"):
        Client(guard.address, tls=guard.key)


TYPED = """\
from lightwell import AsyncClient, Client, Estimate, Explanation, Filters, GradCam, Occlusion, Pgd, Progress, Sheet
from lightwell import Stream, Synthesis


def waiting() -> None:
    with Client("localhost:50051", timeout=3, tls="ca.pem", certificate=("a", "b"), token=lambda: "t", retries=1) as c:
        one: Explanation = c.explain("cat.jpg", GradCam(layer="layer4"), model="resnet50", target="tabby")
        many: list[Explanation] = c.explain("cat.jpg", GradCam(), targets=5)
        stream: Stream[Explanation] = c.explain_stream(b"...", Occlusion(stride=4), seed=3)
        steps: list[Progress] = list(stream)
        dense: Explanation = stream.result()
        made: Synthesis = c.synthesize(Pgd(epsilon=2 / 255), image="cat.jpg").result()
        cost: Estimate = c.estimate(Pgd(), "cat.jpg", model="resnet50")
        seconds: float | None = cost.device_seconds
        maps: list[Explanation] = list(c.explain_all(["a.jpg", "b.jpg"], GradCam(), concurrency=4, progress=True))
        page: str = c.sheet("cat.jpg", [GradCam(), Pgd()], targets=[3, "tabby"], sweep={"layer": ["a"]}, seed=3).html()
        top: Sheet = c.sheet(["a.jpg", b"..."], GradCam(), targets=5, models=["a", "b"])
        shape: tuple[int, ...] = c.filters("conv1", model="resnet50").weights.shape
        up: float = c.status().up_seconds
        numbers: list[int] = [job.number for job in c.jobs()]
        layers: int = len(c.load_model("resnet50").layers)
        print(one.map.shape, many, steps, dense.overlay().size, made.succeeded, seconds, maps, up, numbers, layers)
        print(page, top, shape)


async def awaited() -> None:
    async with AsyncClient("localhost:50051", tls=True, token="t") as c:
        one: Explanation = await c.explain("cat.jpg", GradCam())
        many: list[Explanation] = await c.explain("cat.jpg", GradCam(), targets=5)
        made: Synthesis = await c.synthesize(Pgd(), image="cat.jpg").result()
        steps: list[int] = [progress.step async for progress in c.explain_stream("cat.jpg", Occlusion())]
        maps: list[Explanation] = [seen async for seen in c.explain_all(["a.jpg"], GradCam())]
        top: Sheet = await c.sheet("cat.jpg", [GradCam(), Pgd()], targets=5)
        weights: Filters = await c.filters(picture=True)
        print(one, many, made, steps, maps, top, weights)
"""
WRONG = "Client('localhost:50051').explain('cat.jpg', GradCam(), modle='resnet50')"


def test_a_type_checker_knows_the_calls(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(f"from lightwell import Client, GradCam\n{WRONG}\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "."]
    environment = {**os.environ, "MYPYPATH": str(Path(lightwell.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert complaints and all(line.startswith("wrong.py:2: error:") for line in complaints), done.stdout
    assert "modle" in complaints[0]
