"""Integrated gradients: the map sums to the difference of the two scores, but for the gap that is told."""

import pytest
import torch

from lightwell_server.contract import ClassTarget
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods.integrated_gradients import _rule
from tests.methods.asking import ask, close, model, picture
from tests.nets import Residual, seeded

RULES = ("gauss_legendre", "midpoint", "trapezoid", "left", "right")
BASELINES = {"black": 0.0, "white": 1.0, "mean": 0.25}


@pytest.fixture(scope="module")
def net():
    return seeded(Residual).double()


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    card = {"size": (16, 16), "mean": (0.25, 0.25, 0.25), "std": (0.5, 0.5, 0.5)}
    return model(seeded(Residual), tmp_path_factory.mktemp("path"), input=card)


def score(net, image, index=1):
    return net((image - 0.25) / 0.5)[0, index].detach()


@pytest.mark.parametrize("baseline", [*BASELINES, "blur"])
def test_completeness(lifted, net, baseline):
    image = picture()
    seen = ask(lifted, "integrated_gradients", image, ClassTarget(1), steps=500, baseline=baseline)
    low = seen.measures["baseline_score"]
    if baseline in BASELINES:
        assert low == pytest.approx(float(score(net, torch.full_like(image, BASELINES[baseline]))), abs=1e-12)
    difference = float(score(net, image)) - low
    assert float(seen.map.values.sum()) == pytest.approx(difference + seen.measures["completeness_gap"], abs=1e-9)
    assert abs(seen.measures["completeness_gap"]) < 0.01 * abs(difference)


def test_every_rule_comes_to_the_same(lifted):
    maps = {
        rule: ask(lifted, "integrated_gradients", picture(), steps=1000, quadrature=rule).map.values for rule in RULES
    }
    scale = float(maps["midpoint"].abs().max())
    for rule, values in maps.items():
        assert float((values - maps["midpoint"]).abs().max()) < 0.01 * scale, rule


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 5, 64, 65])
def test_weights_sum_to_one_and_places_lie_between_the_ends(rule, steps):
    places, weights = _rule(rule, steps)
    assert len(places) == len(weights) == steps
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert float(places.min()) >= 0 and float(places.max()) <= 1
    # How exactly a rule integrates x: the ends of equal parts alone are off, by half a part.
    off = {"left": -0.5 / steps, "right": 0.5 / steps}.get(rule, 0.0)
    assert float((weights * places).sum()) == pytest.approx(0.5 + off, abs=1e-12)


def test_a_baseline_of_ones_own_is_brought_to_the_size(lifted, net):
    image = picture()
    own = torch.full((1, 3, 5, 9), 0.75, dtype=torch.float64)
    seen = ask(lifted, "integrated_gradients", image, ClassTarget(1), baseline_image=own)
    assert seen.measures["baseline_score"] == pytest.approx(float(score(net, torch.full_like(image, 0.75))), abs=1e-12)


def test_more_steps_than_are_asked_for_at_once(lifted):
    """The sum over parts is the sum."""
    image, target = picture(), ClassTarget(0)
    ours = ask(lifted, "integrated_gradients", image, target, steps=130, quadrature="midpoint", channels="none")
    total = torch.zeros_like(image[0])
    for k in range(130):
        at = (k + 0.5) / 130 * image
        total += ask(lifted, "saliency", at, target, magnitude=False, channels="none").tensors["gradient"]
    assert close(ours.tensors["attribution"], image[0] * total / 130)


def test_a_trapezoid_has_two_ends(lifted):
    with pytest.raises(InvalidArgument, match="take 2 at least"):
        ask(lifted, "integrated_gradients", picture(), steps=1, quadrature="trapezoid")
