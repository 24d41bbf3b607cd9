"""The engine with real graphs: every feature of the treaty at once, and each thing that can go wrong harms its own
job only."""

import queue
import threading
import time

import pytest
import torch

from lightwell_server.contract import (
    ACT,
    GRAD,
    INPUT,
    OUT,
    OUTPUT,
    SCORE,
    Answer,
    Ask,
    Edit,
    Frame,
    Part,
    Rows,
    Work,
)
from lightwell_server.engine.engine import Engine
from lightwell_server.engine.run import Done, Failed, Run
from lightwell_server.errors import DeadlineExceeded, Internal, OutOfMemory, Overloaded, Unavailable
from lightwell_server.models.answer import answer
from lightwell_server.models.lifting.lift import InputSpec
from lightwell_server.threads import single_threaded_pool
from tests.nets import Captioned, Residual, lifted, seeded


@pytest.fixture(scope="module")
def net():
    return seeded(Residual).double()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return lifted(seeded(Residual), tmp_path_factory.mktemp("engine")).to("cpu", torch.float64)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    inputs = {"tokens": InputSpec((4,), torch.int64)}
    graph = lifted(seeded(Captioned), tmp_path_factory.mktemp("engine"), "traced", inputs=inputs)
    return graph.to("cpu", torch.float64)


class Nothing:
    """A model for devices that never look at it."""


NOTHING = Nothing()


@pytest.fixture
def worker():
    worker = Engine(answer)
    yield worker
    worker.stop()


def image(seed=0, rows=1):
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first(values, index):
    return values[:, 0]


def submit(worker, generator, graph, **options):
    events = queue.SimpleQueue()
    job = Run("toy", generator, options.pop("models", {None: graph}), events.put, **options)
    worker.submit(job)
    return job, events


def result(events):
    """The end of a job; its error is raised."""
    while True:
        event = events.get(timeout=20)
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done):
            return event.result


def run(worker, generator, graph, **options):
    return result(submit(worker, generator, graph, **options)[1])


def gradients(x, steps=1):
    """A method of `steps` gradients."""
    for k in range(steps):
        grad = (yield Ask(x, first, want=GRAD)).grad
        yield Frame(k + 1, steps)
    return grad


def test_the_toy_method_uses_the_whole_treaty(worker, net, captioned, graph):
    x, tokens = image(), torch.tensor([1, 2, 3, 0])

    def toy():
        everything = yield Ask(x, first, wrt="stem", want=SCORE | OUT | ACT | GRAD)
        several = yield Ask(x, at=("stem", OUTPUT), want=OUT)
        lazy = yield Ask(Rows(20, lambda index: x * (index.view(-1, 1, 1, 1) + 1) / 20), first)
        edit = Edit("conv", lambda acts, index: acts * (index.view(-1, 1, 1, 1) != 0), count=3)
        edited = yield Ask(x, first, edit=edit)
        other = yield Ask(x, lambda values, index: values.sum(1), want=SCORE | GRAD, model="other")
        worked = yield Work(lambda a, b: a + b, 2, 3)
        yield Frame(1, 1, 0.5, x.clone())
        return everything, several, lazy, edited, other, worked

    # The request's own model is the residual net; the captioned one is a role, and gets no inputs of the request.
    inner = captioned_alone(captioned, tokens)
    _, events = submit(worker, toy(), graph, models={None: graph, "other": inner})
    frame = events.get(timeout=20)
    assert frame.step == 1 and frame.objective == 0.5
    everything, several, lazy, edited, other, worked = result(events)

    stem = net.stem(x).detach().requires_grad_()
    features = net.relu(net.norm(stem))
    scores = net.head((net.relu(net.conv(features) + features)).mean((2, 3)))
    assert torch.allclose(everything.out, scores, atol=1e-12) and torch.allclose(everything.act, stem, atol=1e-12)
    assert torch.allclose(everything.grad, torch.autograd.grad(scores[0, 0], stem)[0], atol=1e-12)
    assert torch.equal(everything.score, everything.out[:, 0])
    assert torch.allclose(several.out[0], stem, atol=1e-12) and torch.allclose(several.out[1], scores, atol=1e-12)
    assert torch.allclose(lazy.score, net(x * torch.arange(1, 21).view(-1, 1, 1, 1) / 20)[:, 0], atol=1e-12)
    assert lazy.out is None and lazy.grad is None
    features = net.relu(net.norm(net.stem(x)))
    without = net.head(net.relu(net.conv(features) * 0 + features).mean((2, 3)))[0, 0]
    assert torch.allclose(edited.score, torch.stack([without, scores[0, 0], scores[0, 0]]), atol=1e-12)
    assert other.grad.abs().sum() > 0 and other.score.shape == (1,)
    assert worked == 5


def captioned_alone(graph, tokens):
    """The captioned graph with its tokens held constant, as a model without other inputs."""

    class Held:
        device, dtype, row_by_row, inputs, size = graph.device, graph.dtype, False, {}, graph.size

        def subgraph(self, key):
            inner = graph.subgraph(key)

            class Alone:
                influential, alone, apart = inner.influential, inner.alone, inner.apart

                def run(self, rows, inputs, index, edit=None, grad=False, act=False):
                    return inner.run(rows, {"tokens": tokens.expand(len(rows), -1)}, index, edit, grad, act)

            return Alone()

    return Held()


def test_other_inputs_go_with_every_ask_of_the_own_model(worker, captioned):
    net, x, tokens = seeded(Captioned).double(), image(), torch.tensor([1, 2, 3, 0])
    many = Rows(7, lambda index: x.repeat(len(index), 1, 1, 1) * 0.5)

    def method():
        return (yield Ask(many, lambda values, index: values[:, 2])).score

    scores = run(worker, method(), captioned, inputs={"tokens": tokens})
    assert torch.allclose(scores, net(x * 0.5, tokens[None])[:, 2].expand(7), atol=1e-12)


def test_requests_in_a_crowd_get_what_they_get_alone(worker, graph):
    alone = [run(worker, gradients(image(seed), 3), graph) for seed in range(6)]
    crowd = [submit(worker, gradients(image(seed), 3), graph)[1] for seed in range(6)]
    for one, events in zip(alone, crowd, strict=True):
        assert torch.allclose(one, result(events), rtol=0, atol=1e-12)


def test_jobs_share_steps():
    rows, gate = [], threading.Event()

    def slow(graph, parts):
        gate.wait(5)
        rows.append(sum(part.count for part in parts))
        return answers(parts)

    worker = Engine(slow)
    crowd = [submit(worker, gradients(image(), 4), NOTHING)[1] for _ in range(8)]
    gate.set()
    for events in crowd:
        result(events)
    worker.stop()
    assert sum(rows) == 32 and len(rows) < 16, rows


def answers(parts):
    """What a device without a model answers."""
    return [Answer(grad=torch.zeros(part.count, 1), score=torch.zeros(part.count)) for part in parts]


def test_a_failing_score_harms_its_own_job_only(worker, graph):
    def guilty(values, index):
        raise ZeroDivisionError("a fault of this method")

    def bad():
        yield Ask(image(), guilty, want=GRAD)

    crowd = [submit(worker, bad() if i == 2 else gradients(image(i)), graph)[1] for i in range(5)]
    for i, events in enumerate(crowd):
        if i == 2:
            with pytest.raises(Internal) as caught:
                result(events)
            assert "ZeroDivision" not in str(caught.value)
        else:
            assert result(events).abs().sum() > 0


def test_a_method_that_yields_within_no_grad_does_not_leak_it(worker, graph):
    def leaky():
        with torch.no_grad():
            for _ in range(3):
                yield Ask(image(), first, want=GRAD)
        return None

    crowd = [
        submit(worker, make, graph)[1] for make in (leaky(), gradients(image(), 3), leaky(), gradients(image(), 3))
    ]
    grads = [result(events) for events in crowd]
    assert grads[1].abs().sum() > 0 and torch.equal(grads[1], grads[3])


def test_out_of_memory_halves_the_chunk_and_is_remembered():
    seen = []

    def small_device(graph, parts):
        rows = sum(part.count for part in parts)
        seen.append(rows)
        if rows > 3:
            raise OutOfMemory("too many rows")
        return answers(parts)

    def method():
        return (yield Ask(Rows(40, lambda index: torch.zeros(len(index), 3, 4, 4)), first)).score

    worker = Engine(small_device, max_rows=16)
    assert run(worker, method(), NOTHING).shape == (40,)
    too_large = sum(rows > 3 for rows in seen)
    assert 1 <= too_large <= 3
    seen.clear()
    assert run(worker, method(), NOTHING).shape == (40,)
    worker.stop()
    assert max(seen) <= 3


def test_one_row_that_does_not_fit_fails_with_its_own_reason():
    def no_memory(graph, parts):
        raise OutOfMemory("not even one row")

    worker = Engine(no_memory)
    with pytest.raises(OutOfMemory):
        run(worker, gradients(image()), NOTHING)
    worker.stop()


def test_no_step_is_run_for_a_caller_that_is_gone(graph):
    steps = []

    def counted(graph, parts):
        steps.append(len(parts))
        time.sleep(0.005)
        return answer(graph, parts)

    worker = Engine(counted)
    job, events = submit(worker, gradients(image(), 10_000), graph)
    for _ in range(5):
        events.get(timeout=20)
    worker.cancel(job)
    time.sleep(0.05)
    done = len(steps)
    time.sleep(0.2)
    assert len(steps) == done and not worker.runs
    worker.stop()


def test_late_jobs_stop_between_two_steps_and_expired_ones_never_start(worker, graph):
    with pytest.raises(DeadlineExceeded):
        run(worker, gradients(image(), 100_000), graph, deadline=time.monotonic() + 0.2)
    job, events = submit(worker, gradients(image()), graph, deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        result(events)
    assert job.device_steps == 0


@pytest.mark.parametrize("processors", [False, True])
def test_rows_that_cannot_be_in_time_are_told_at_once_unless_the_processors_were_anothers(processors):
    """A step that sleeps has no processor, as one that others are at work beside."""

    def slow(graph, parts):
        time.sleep(0.01)
        return answers(parts)

    def many(rows):
        yield Ask(Rows(rows, lambda index: torch.zeros(len(index), 3, 4, 4)), first)

    worker = Engine(slow, max_rows=1, processors=processors)
    run(worker, many(10), NOTHING)
    job, events = submit(worker, many(10_000), NOTHING, deadline=time.monotonic() + 20)
    if processors:
        until(lambda: job.device_steps > 0)
        worker.cancel(job)
    else:
        with pytest.raises(DeadlineExceeded, match="more seconds of the device at least") as caught:
            result(events)
        assert caught.value.reason == "DEADLINE_TOO_SHORT" and job.device_steps == 0
    worker.stop()


def until(true, patience=20.0):
    """Waits until something is true."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "it has not become true"
        time.sleep(0.01)


def test_work_does_not_hold_the_device(worker, graph):
    released = threading.Event()

    def slow():
        yield Work(released.wait, 20)
        return "worked"

    _, waiting = submit(worker, slow(), graph)
    assert run(worker, gradients(image()), graph) is not None
    released.set()
    assert result(waiting) == "worked"


def test_failing_work_fails_its_job(worker, graph):
    def method():
        yield Work(lambda: 1 / 0)

    with pytest.raises(Internal):
        run(worker, method(), graph)


def test_the_door_is_shut_when_too_many_are_inside(graph):
    worker, hold = Engine(answer, max_runs=2), threading.Event()

    def waiting():
        yield Work(hold.wait, 20)

    for _ in range(2):
        submit(worker, waiting(), graph)
    with pytest.raises(Overloaded):
        submit(worker, waiting(), graph)
    hold.set()
    worker.stop()
    with pytest.raises(Unavailable):
        submit(worker, waiting(), graph)


def test_stopping_fails_what_is_left(graph):
    worker = Engine(answer)
    _, events = submit(worker, gradients(image(), 100_000), graph)
    events.get(timeout=20)
    worker.stop()
    with pytest.raises(Unavailable):
        result(events)


def test_reproducible_jobs_share_no_step_and_keep_their_bits(graph):
    shared = []

    def watched(graph, parts):
        shared.append([*sorted({part.reproducible for part in parts}), len(parts)])
        return answer(graph, parts)

    worker = Engine(watched)
    graph.to("cpu", torch.float32)
    x = image().float()
    alone = run(worker, gradients(x, 4), graph, reproducible=True)
    crowd = [submit(worker, gradients(image(i).float(), 4), graph)[1] for i in range(6)]
    single_threaded_pool = run(worker, gradients(x, 4), graph, reproducible=True)
    for events in crowd:
        result(events)
    worker.stop()
    graph.to("cpu", torch.float64)
    assert torch.equal(alone, single_threaded_pool)
    assert all(kinds == [True, 1] for kinds in shared if True in kinds[:-1])


def test_gradients_with_respect_to_the_input_by_name(graph):
    ask = Ask(image(), first, wrt=INPUT, want=GRAD)
    by_name = answer(graph, [Part(ask, 0, 1)])[0].grad
    assert torch.equal(by_name, answer(graph, [Part(Ask(image(), first, want=GRAD), 0, 1)])[0].grad)


def raising():
    yield Ask(Rows(3, lambda index: 1 / 0), first)


def empty():
    yield Ask(Rows(0, lambda index: image()), first)


def nonsense():
    yield "not an Ask"


def unknown_role():
    yield Ask(image(), first, model="nobody")


@pytest.mark.parametrize("mistaken", [raising, empty, nonsense, unknown_role])
def test_a_methods_mistake_does_not_stop_the_engine(worker, graph, mistaken):
    with pytest.raises(Internal):
        run(worker, mistaken(), graph)
    assert run(worker, gradients(image()), graph) is not None and not worker.runs


def test_a_listener_that_fails_does_not_stop_the_engine(worker, graph):
    def deaf(event):
        raise RuntimeError("nobody listens")

    worker.submit(Run("toy", gradients(image(), 3), {None: graph}, deaf))
    assert run(worker, gradients(image()), graph) is not None


def test_threads_beside_the_device_use_no_others():
    """Teams of several threads at a time make each other slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = single_threaded_pool(1, "test")
        assert threads.submit(torch.get_num_threads).result() == 1
        threads.shutdown()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
