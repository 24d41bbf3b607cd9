"""What requests are taken to cost, and who is let in; without a server, the clock, or a request that is run."""

import time
from contextlib import ExitStack

import numpy as np
import pytest

from lightwell import Activations, GradCam, Neuron, Occlusion, Pgd, Saliency, Style, StyleTransfer
from lightwell.images import to_message
from lightwell.requests import explain_request, synthesize_request
from lightwell.v1.models_pb2 import Card, Layer
from lightwell_server.engine.experience import ENOUGH, HALVED
from lightwell_server.errors import DeadlineExceeded, Overloaded
from lightwell_server.gateway.admission import Admission, Backlog
from lightwell_server.gateway.prices import ANSWER, KEPT, RISE, CostModel, kind
from lightwell_server.gateway.registry import ModelVersion
from lightwell_server.requests.admitted import GUESS, AdmittedRequest, Price
from lightwell_server.requests.call import Call

ENTRY = ModelVersion("net", "1")
NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
HOUR, MOST = 3600.0, 10_000
TOLD = ENOUGH + 1
"""Requests from which on the least that such ones cost is relied on: the first is forgotten."""


def asked(method, image=NOISE, **options):
    build = synthesize_request if isinstance(method, Pgd | StyleTransfer) else explain_request
    return build(method, image=image, **options) if build is synthesize_request else build(image, method, **options)


def still():
    """Prices on a clock that stands still."""
    return CostModel(MOST, lambda: 0.0)


def priced(prices, method):
    return AdmittedRequest(Call("id", "rpc", method="any"), price=prices.price(asked(method), ENTRY))


def taught(prices, method, *seconds, step=0, steps=0):
    """Prices that have seen such a request cost so many seconds, each time after `step` of `steps`."""
    for cost in seconds:
        case = priced(prices, method)
        case.step, case.steps = step, steps
        prices.learn(case, cost)
    return prices


def test_what_was_never_run_has_no_price_and_may_be_long():
    price = CostModel(MOST).price(asked(Saliency()), ENTRY)
    assert price.seconds is None and price.least == 0 and price.cost == GUESS and price.long


def test_the_first_figure_is_forgotten_with_the_second():
    prices = taught(CostModel(MOST), Saliency(), 9.0)
    assert prices.price(asked(Saliency()), ENTRY).seconds == 9.0
    assert taught(prices, Saliency(), 0.5).price(asked(Saliency()), ENTRY).seconds == 0.5


def test_an_answer_is_taken_to_be_as_large_as_the_largest_of_its_like():
    prices = still()
    prices.answered(priced(prices, Saliency()).price, 9 * ANSWER)  # of what nothing is known there is nothing to learn
    assert priced(prices, Saliency()).price.answer == ANSWER
    taught(prices, Saliency(), 0.1)
    for size in (70_000, 90_000, 80_000):
        prices.answered(priced(prices, Saliency()).price, size)
    assert priced(prices, Saliency()).price.answer == 90_000
    assert priced(prices, Saliency(magnitude=False)).price.answer == ANSWER


def test_an_answer_that_was_never_given_may_be_as_large_as_what_the_method_reads():
    entry = ModelVersion("net", "1")
    entry.described.card.MergeFrom(Card(height=32, width=32, channels=3))
    entry.described.layers.extend(
        [Layer(name="early", shape=[64, 32, 32], aliases=["e"]), Layer(name="late", shape=[9])]
    )
    entry.described.layers.add(name="wide", shape=[512, 32, 32])
    entry.described.methods.add(method="activations", default_layers=["wide"])
    image, wide = np.zeros((3, 128, 64), np.uint8), 4 * 512 * 32 * 32

    def answer(method, fit="card"):
        return CostModel(MOST).price(asked(method, to_message(image, fit)), entry).answer

    assert answer(Activations()) == wide
    assert answer(Activations(), "exact") == 8 * wide
    assert answer(Activations(layer="e"), "exact") == answer(GradCam(layer="early"), "exact") == wide
    assert answer(Activations(layer="late")) == answer(Saliency(), "exact") == ANSWER
    content = StyleTransfer(styles=[Style(image=to_message(NOISE))], size=32)
    assert answer(content) == ANSWER, "whatever layers it reads, it gives a picture"
    strange = explain_request(to_message(NOISE, "exact"), Saliency())
    strange.image.tensor.shape[:] = [2**62] * 10_000
    assert CostModel(MOST).price(strange, entry).answer < 2**200, "two sides count, however many it names"
    image = np.zeros((3, 1024, 1024), np.uint8)
    assert answer(Saliency(), "exact") == 4 * 3 * 1024 * 1024


def test_a_price_is_the_median_of_the_last_figures():
    prices = taught(CostModel(MOST), Saliency(), 9.0, 0.1, 0.2, 7.0)
    assert prices.price(asked(Saliency()), ENTRY).seconds == 0.2
    assert taught(prices, Saliency(), *[0.4] * KEPT).price(asked(Saliency()), ENTRY).seconds == 0.4


def test_the_least_is_told_once_enough_are_known():
    prices = taught(still(), Saliency(), 9.0, *[0.3] * (TOLD - 2))
    assert prices.price(asked(Saliency()), ENTRY).least == 0
    assert taught(prices, Saliency(), 0.2).price(asked(Saliency()), ENTRY).least == 0.2


def test_the_least_comes_down_at_once_and_rises_slowly():
    prices = taught(still(), Saliency(), 9.0, 0.2, *[0.4] * ENOUGH)
    assert prices.price(asked(Saliency()), ENTRY).least == pytest.approx(0.2 * (1 + RISE) ** ENOUGH)
    assert taught(prices, Saliency(), 0.1).price(asked(Saliency()), ENTRY).least == 0.1
    assert taught(prices, Saliency(), *[0.4] * 100).price(asked(Saliency()), ENTRY).least == 0.4


def test_the_least_fades_while_nothing_is_known_anew():
    """Those who are refused for it bring no figure."""
    clock = [0.0]
    prices = taught(CostModel(MOST, lambda: clock[0]), Saliency(), *[0.4] * TOLD)
    clock[0] = 2 * HALVED
    assert prices.price(asked(Saliency()), ENTRY).least == pytest.approx(0.1)
    assert taught(prices, Saliency(), 0.4).price(asked(Saliency()), ENTRY).least == 0.4


def test_steps_scale_a_price():
    prices = taught(still(), Pgd(steps=10), *[1.0] * TOLD, step=10, steps=10)
    price = prices.price(asked(Pgd(steps=40)), ENTRY)
    assert (price.seconds, price.least) == pytest.approx((4.0, 4.0)) and price.long
    assert prices.price(asked(Pgd()), ENTRY).seconds is None  # which does not say how many it makes


def test_more_steps_than_may_be_have_no_price():
    prices = taught(CostModel(MOST), Pgd(steps=10), *[1.0] * ENOUGH, step=10, steps=10)
    assert prices.price(asked(Pgd(steps=MOST)), ENTRY).seconds == pytest.approx(MOST / 10)
    price = prices.price(asked(Pgd(steps=MOST + 1)), ENTRY)
    assert price.seconds is None and prices.cost(price) == GUESS, "and are not in the line at a fantastic one"


def test_who_stops_early_may_cost_all_steps_and_did_not():
    prices = taught(still(), Pgd(steps=10), *[0.4] * TOLD, step=2, steps=10)
    price = prices.price(asked(Pgd(steps=10)), ENTRY)
    assert (price.seconds, price.least) == pytest.approx((2.0, 0.0)), "and what all steps cost at least is not known"
    taught(prices, Pgd(steps=10), *[2.0] * ENOUGH, step=10, steps=10)
    least = prices.price(asked(Pgd(steps=10)), ENTRY).least
    assert 0.4 < least < 0.4 * (1 + RISE) ** (ENOUGH + 1), "one may stop as early again"


def test_restarts_are_steps_that_are_not_asked_for():
    twice = Pgd(steps=10, restarts=2)
    prices = taught(CostModel(MOST), twice, 2.0, 2.0, step=20, steps=20)
    assert prices.price(asked(Pgd(steps=20, restarts=2)), ENTRY).seconds == pytest.approx(4.0)
    assert prices.price(asked(Pgd(steps=20)), ENTRY).seconds is None


PAINTED = StyleTransfer(styles=[Style(image=to_message(NOISE))], steps=5)
OTHER = NOISE[:, ::-1].copy()
LARGE = np.zeros((3, 256, 256), np.uint8)


@pytest.mark.parametrize(
    ("one", "two", "alike"),
    [
        (asked(Saliency()), asked(Saliency(), image=OTHER), True),
        (asked(Saliency()), asked(Saliency(), image=LARGE), True),  # the card chooses the size
        (asked(Saliency(), fit="exact"), asked(Saliency(), image=LARGE, fit="exact"), False),
        (asked(Saliency(), target=3), asked(Saliency(), target=7), True),
        (asked(Saliency(), target=3), asked(Saliency()), False),
        (
            asked(Saliency(), target=Neuron(layer="a", channel=1)),
            asked(Saliency(), target=Neuron(layer="a", channel=2)),
            True,
        ),
        (
            asked(Saliency(), target=Neuron(layer="a", channel=1)),
            asked(Saliency(), target=Neuron(layer="b", channel=1)),
            False,
        ),
        (asked(Saliency(), seed=1), asked(Saliency(), seed=2), True),
        (asked(Saliency()), asked(Saliency(), reproducible=True), False),
        (asked(Saliency()), asked(Saliency(), predictions=3), False),
        (asked(Saliency()), asked(GradCam()), False),
        (asked(Occlusion(stride=4)), asked(Occlusion(stride=8)), False),
        (asked(Pgd(steps=4)), asked(Pgd(steps=8)), True),
        (asked(Pgd(steps=4)), asked(Pgd(steps=4, stop_early=False)), False),
        (asked(PAINTED), asked(PAINTED, image=OTHER), True),
        (asked(PAINTED), asked(PAINTED, image=LARGE), False),  # it is taken whole
    ],
)
def test_what_is_alike(one, two, alike):
    assert (kind(one, ENTRY)[1] == kind(two, ENTRY)[1]) is alike


def test_what_is_asked_of_another_model_is_not_alike():
    family, alike, _ = kind(asked(Saliency()), ENTRY)
    assert {family, alike}.isdisjoint(kind(asked(Saliency()), ModelVersion("other", "1"))[:2])
    next_family, of_the_next, _ = kind(asked(Saliency()), ModelVersion("net", "2"))
    assert next_family == family and of_the_next != alike


def test_what_is_unknown_is_guessed_by_what_is_near():
    prices = taught(CostModel(MOST), Pgd(steps=10, epsilon=0.01), *[1.0] * ENOUGH, step=10, steps=10)
    price = prices.price(asked(Pgd(steps=40, epsilon=0.011)), ENTRY)
    assert price.seconds is None and price.least == 0 and price.cost == pytest.approx(4.0) and price.long


def test_one_that_may_stop_early_is_let_in_where_others_leave_it_the_least():
    admission = Admission(lambda: 1, 10, 10, HOUR, MOST)
    early = Price(1, seconds=10.0, least=2.0)
    with admission.admitted(Call("a", "rpc"), "1", time.monotonic() + HOUR, Price(2, seconds=0.01)):
        with admission.admitted(Call("b", "rpc"), "1", time.monotonic() + 9, early):
            pass
        with (
            pytest.raises(DeadlineExceeded),
            admission.admitted(Call("b", "rpc"), "1", time.monotonic() + 1, early),
        ):
            pass


def test_style_pictures_are_not_looked_at():
    others = StyleTransfer(styles=[Style(image=to_message(OTHER))], steps=5)
    assert kind(asked(PAINTED), ENTRY) == kind(asked(others), ENTRY)


def in_progress(number, cost, attained=0.0, caller="a"):
    return AdmittedRequest(Call("id", "rpc", caller), number, price=Price(seconds=cost), attained=attained)


def test_what_a_callers_own_ones_use_before_by_the_least_attained_service():
    backlog = Backlog(4)
    assert backlog.before(Price(seconds=1.0), "a") == 0
    backlog.note(in_progress(1, 10.0, attained=4.0), waits=False)  # it has used more: whoever needs 1 overtakes it
    backlog.note(in_progress(2, 0.5, attained=0.25), waits=False)  # it is done before
    assert backlog.before(Price(seconds=1.0), "a") == pytest.approx(0.25)
    assert backlog.before(Price(seconds=5.0), "a") == pytest.approx(1.0 + 0.25)  # until the first has used 5 as well
    assert backlog.before(Price(seconds=50.0), "a") == pytest.approx(6.0 + 0.25)  # all that they need


def test_who_waits_for_a_worker_and_costs_more_waits_behind():
    backlog, waiting = Backlog(4), in_progress(1, 3.0)
    backlog.note(waiting, waits=True)
    assert backlog.before(Price(seconds=1.0), "a") == 0
    assert backlog.before(Price(seconds=3.0), "a") == pytest.approx(3.0)
    backlog.note(waiting, waits=False)  # it has found one
    assert backlog.before(Price(seconds=1.0), "a") == pytest.approx(1.0)


def test_another_caller_is_before_with_no_more_than_ones_own():
    backlog = Backlog(9)
    for number in range(5):
        backlog.note(in_progress(number, 10.0, caller="loud"), waits=number > 2)
    backlog.note(in_progress(5, 0.5, attained=0.25, caller="third"), waits=False)
    assert backlog.before(Price(seconds=1.0), "a") == pytest.approx(1.0 + 0.25)
    backlog.note(in_progress(6, 2.0), waits=False)
    assert backlog.before(Price(seconds=1.0), "a") == pytest.approx(1.0 + 2.0 + 0.25), "its own counts, and doubles"
    assert backlog.before(Price(seconds=100.0), "a") == pytest.approx(2.0 + 50.0 + 0.25), "all that they need"
    assert backlog.before(Price(seconds=1.0), "loud") == pytest.approx(3.0 + 2.0 + 0.25)
    assert backlog.before(Price(seconds=0.0), "a") == 0


def test_who_leaves_is_before_nobody_and_gives_its_place_back():
    backlog = Backlog(1)
    for number in range(3):
        case = in_progress(number, 1.0)
        backlog.note(case, waits=False)
        assert backlog.before(Price(seconds=1.0), "a") == pytest.approx(1.0)
        backlog.leave(case)
        assert backlog.before(Price(seconds=1.0), "a") == 0


def door(queue=HOUR, most=100, workers=1, each=100):
    """An admission that knows what a saliency map costs: 0.1 seconds."""
    admission = Admission(lambda: workers, most, each, queue, MOST)
    taught(admission.prices, Saliency(), *[0.1] * TOLD)
    return admission


def enter(inside, admission, left=HOUR, caller=""):
    price = admission.prices.price(asked(Saliency()), ENTRY)
    inside.enter_context(admission.admitted(Call("id", "rpc", caller), "1", time.monotonic() + left, price))


def admitted(admission, left=HOUR):
    """How many saliency maps are let in until one is refused, and its refusal."""
    with ExitStack() as inside:
        for count in range(1000):
            try:
                enter(inside, admission, left)
            except (Overloaded, DeadlineExceeded) as refusal:
                return count, refusal
    raise AssertionError("all were let in")


@pytest.mark.parametrize(("workers", "most"), [(1, 5), (2, 9)])
def test_the_line_is_bounded_in_predicted_seconds(workers, most):
    count, refusal = admitted(door(queue=0.55, workers=workers))  # a second of waiting does 0.8 seconds of work
    assert count == most and isinstance(refusal, Overloaded) and refusal.retry_seconds > 0


def test_nobody_is_let_in_whose_turn_would_come_too_late():
    count, refusal = admitted(door(), left=1.05)
    assert count == 8 and isinstance(refusal, Overloaded) and 0 < refusal.retry_seconds < 1
    count, refusal = admitted(door(), left=0.05)
    assert count == 0 and isinstance(refusal, DeadlineExceeded) and refusal.reason == "DEADLINE_TOO_SHORT"


def test_there_are_never_more_than_may_be():
    count, refusal = admitted(door(most=3))
    assert count == 3 and isinstance(refusal, Overloaded)


def test_one_caller_leaves_room_to_others():
    admission = door(most=6, each=3)
    with ExitStack() as inside:
        for _ in range(2):
            with ExitStack() as first:
                for _ in range(3):
                    enter(first, admission, caller="loud")
                with pytest.raises(Overloaded, match="loud has 3 requests in progress already") as caught:
                    enter(first, admission, caller="loud")
                assert caught.value.reason == "TOO_MANY_JOBS" and caught.value.retry_seconds > 0
                enter(inside, admission, caller="quiet")
        enter(inside, admission, caller="loud")


@pytest.mark.parametrize("left", [HOUR, 0.5])
def test_a_flood_is_before_nobody_but_its_own_caller(left):
    """Whether by the line's length or by what a deadline leaves."""
    admission = door(queue=1.0)
    with ExitStack() as inside:
        with pytest.raises(Overloaded) as caught:
            for _ in range(100):
                enter(inside, admission, left, caller="loud")
        assert caught.value.reason == "QUEUE_FULL"
        enter(inside, admission, left, caller="quiet")
        with pytest.raises(Overloaded):
            enter(inside, admission, left, caller="loud")


def test_those_in_are_counted_at_what_they_are_taken_to_need_by_now():
    admission = door()
    with ExitStack() as inside:
        for _ in range(4):
            enter(inside, admission)
        assert admission.seconds == pytest.approx(0.4)
        taught(admission.prices, Saliency(), *[0.5] * KEPT)
        first = admission.requests[0]
        admission.attained({first.number: 0.2})
        assert admission.seconds == pytest.approx(3 * 0.5 + 0.3)
        assert first.price.seconds == pytest.approx(0.1)  # what was predicted stays what was predicted
    assert admission.seconds == 0


def test_a_long_list_is_told_by_its_length_and_its_beginning():
    def listed(count, last="b"):
        request = asked(StyleTransfer())
        for _ in range(count):
            request.style_transfer.style_layers.add(layer="a")
        request.style_transfer.style_layers.add(layer=last)
        return kind(request, ENTRY)

    assert listed(9) == listed(9) != listed(9, "c") and listed(8) != listed(9)
    many = asked(StyleTransfer())
    many.style_transfer.style_layers.extend([many.style_transfer.style_layers.add(layer="a")] * 500_000)
    began = time.process_time()
    kind(many, ENTRY)
    assert time.process_time() - began < 0.1, "it is not looked through"
