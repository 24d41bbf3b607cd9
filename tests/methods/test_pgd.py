"""PGD on linear models, whose loss has a gradient that can be written down: each step, each start, each verdict."""

import math

import pytest
import torch
from torch import nn

from lightwell_server.contract import ChannelTarget, ClassTarget, Frame
from lightwell_server.errors import NotApplicable
from tests.methods.asking import ask, close, model, picture, refused
from tests.nets import Linear, seeded

PLAIN = {"random_start": False, "stop_early": False}
BALLS = {"linf": {"epsilon": 0.02, "step": 0.008}, "l2": {"epsilon": 0.25, "step": 0.1}}


class Bright(nn.Module):
    """Class 0 scores the mean of all values, class 1 a half."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, torch.full_like(mean, 0.5)], 1)


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(Linear), tmp_path_factory.mktemp("pgd"))


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    return model(Bright(), tmp_path_factory.mktemp("bright"), side=4)


@pytest.fixture
def grey():
    """140 of 255: class 0, until each value has fallen by 13."""
    return torch.full((1, 3, 4, 4), 140 / 255, dtype=torch.float64)


def frames(seen):
    return [step for step, _ in seen if isinstance(step, Frame)]


def travelled(image, norm, epsilon, step, loss, leave, targeted):
    """Five steps up the loss by the chain rule on scores W x + b, thrown back into the ball and then into [0, 1]."""
    fc, x = seeded(Linear).double().fc, image
    for _ in range(5):
        scores = fc(x.flatten(1))[0].detach()
        label = leave if targeted is None else targeted
        if loss == "cross_entropy":
            slope = scores.softmax(0)
        else:
            slope = torch.zeros(3, dtype=torch.float64)
            slope[max((k for k in range(3) if k != label), key=lambda k: float(scores[k]))] = 1
        slope[label] -= 1
        grad = ((slope if targeted is None else -slope) @ fc.weight.detach()).view_as(image)
        offset = x + step * (grad.sign() if norm == "linf" else grad / grad.norm()) - image
        inside = {"linf": offset.clamp(-epsilon, epsilon), "l2": offset * min(1, epsilon / float(offset.norm()))}
        x = (image + inside[norm]).clamp(0, 1)
    return x


@pytest.mark.parametrize("targeted", [None, 2])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", BALLS)
def test_it_goes_where_the_chain_rule_says(lifted, norm, loss, targeted):
    image = picture().round(decimals=2)  # some values are 0 or 1: there the ball ends
    given = {"norm": norm, "loss": loss, "targeted": targeted, **BALLS[norm]}
    made = ask(lifted, "pgd", image, ClassTarget(1), steps=5, **PLAIN, **given)
    theirs = travelled(image, leave=1, **given)
    assert close(made.image - image, theirs - image) and close(made.tensors["perturbation"], (theirs - image)[0])


def test_it_stops_at_the_first_step_whose_8_bit_picture_fools(bright, grey):
    """Seven steps of 2 make 126; asked are the image, eight pictures on the way, and the last one in 8 bits."""
    seen = []
    made = ask(bright, "pgd", grey, epsilon=20 / 255, random_start=False, seen=seen)
    assert made.succeeded and torch.equal((made.picture * 255).round(), torch.full_like(grey, 126))
    assert close(made.image, made.picture) and int(made.final.argmax()) == 1
    assert made.measures == pytest.approx({"linf": 14 / 255, "l2": 14 / 255 * math.sqrt(48), "queries": 10})
    assert close(made.pictures["difference"], torch.full_like(grey, 0.5 - 14 / 255))
    assert close(made.pictures["difference_x10"], torch.full_like(grey, 0.5 - 140 / 255))
    assert [(frame.step, frame.steps) for frame in frames(seen)] == [(k, 10) for k in range(1, 8)]
    losses = [math.log1p(math.exp(0.5 - (140 - 2 * k) / 255)) for k in range(7)]
    assert [frame.objective for frame in frames(seen)] == pytest.approx(losses)


def test_otherwise_it_makes_every_step_and_asks_once_more(bright, grey):
    made = ask(bright, "pgd", grey, epsilon=20 / 255, **PLAIN)
    assert made.succeeded and close(made.image, torch.full_like(grey, 120 / 255))
    assert made.measures["queries"] == 12


def test_it_tries_anew_until_it_succeeds(bright, grey):
    seen, restarts = [], {"restarts": 3, "steps": 2}
    small = ask(bright, "pgd", grey, epsilon=4 / 255, seen=seen, **restarts)
    assert not small.succeeded and small.measures["queries"] == 1 + 3 * (2 + 1)
    assert [(frame.step, frame.steps) for frame in frames(seen)] == [(k, 6) for k in range(1, 7)]
    starts = [frame.image for frame in frames(seen)[::2]]
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[1], starts[2])
    large = ask(bright, "pgd", grey, epsilon=40 / 255, step=20 / 255, **PLAIN, **restarts)
    assert large.succeeded and large.measures["queries"] == 1 + (2 + 1)


@pytest.mark.parametrize("norm", BALLS)
def test_a_random_start_lies_anywhere_in_the_ball_by_the_seed(lifted, norm):
    image, epsilon = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64), BALLS[norm]["epsilon"]

    def offset(seed):
        seen = []
        ask(lifted, "pgd", image, seed=seed, norm=norm, steps=1, **BALLS[norm], seen=seen)
        return frames(seen)[0].image - image

    offsets = torch.stack([offset(seed) for seed in range(20)])
    assert torch.equal(offset(3), offsets[3])
    if norm == "linf":
        spread = float(offsets.std()) / epsilon
        assert spread == pytest.approx(1 / math.sqrt(3), rel=0.02) and float(offsets.abs().max()) <= epsilon
    else:
        lengths = offsets.flatten(1).norm(dim=1)
        assert float(lengths.max()) <= epsilon and 0.3 < float(lengths.mean()) / epsilon < 0.7


def test_an_8_bit_picture_never_leaves_the_ball_of_one(bright, grey):
    made = ask(bright, "pgd", grey, epsilon=5.5 / 255, **PLAIN)
    assert close(made.image, torch.full_like(grey, 134.5 / 255))
    assert close(made.picture, torch.full_like(grey, 135 / 255))


@pytest.mark.parametrize("steps", [1, 10])  # a step alone, and as many as the ball stops
def test_lengths_that_are_not_given_suit_the_norm(bright, grey, steps):
    written = {"linf": {"epsilon": 8 / 255, "step": 2 / 255}, "l2": {"epsilon": 2.0, "step": 0.5}}
    for norm, lengths in written.items():
        one, other = (ask(bright, "pgd", grey, norm=norm, steps=steps, **PLAIN, **given) for given in ({}, lengths))
        assert torch.equal(one.image, other.image)
    given = {"norm": "l2", "epsilon": 1.0, "steps": steps, **PLAIN}
    assert torch.equal(ask(bright, "pgd", grey, **given).image, ask(bright, "pgd", grey, step=0.25, **given).image)


def test_a_class_that_is_named_is_the_one_that_is_left(bright, grey):
    """Class 1, which the model does not say of the image, is left at the start; class 0 is reached there."""
    assert ask(bright, "pgd", grey, ClassTarget(1), **PLAIN).image.min() > 140 / 255
    made = ask(bright, "pgd", grey, ClassTarget(1), targeted=0, random_start=False)
    assert made.succeeded and torch.equal(made.image, grey) and made.measures["queries"] == 3


@pytest.mark.parametrize(
    ("field", "values"),
    {"epsilon": [0], "step": [0], "steps": [0, 10_001], "restarts": [0, 101], "targeted": [3, -1], "loss": ["hinge"],
     "norm": ["l1"], "stop_early": ["maybe"], "random_start": ["maybe"]}.items(),
)  # fmt: skip
def test_refusals_name_the_field(lifted, field, values):
    for value in values:
        assert refused(lifted, "pgd", **{field: value}) == [f"pgd.{field}"]


def test_only_classes_of_classifiers_can_be_left(residual, tmp_path):
    assert refused(residual, "pgd", target=ChannelTarget("stem", 0)) == ["target"]
    with pytest.raises(NotApplicable, match="the model's values are no scores of classes"):
        ask(model(seeded(Linear), tmp_path, output={"activation": "none"}), "pgd", picture())
