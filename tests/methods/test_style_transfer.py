"""Style transfer on a network that gives back the colours themselves, where each term has a solution that is known."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from lightwell_server.contract import GRAD, Ask, Frame
from lightwell_server.errors import NotApplicable
from lightwell_server.methods import style_transfer
from tests.methods.asking import ask, close, model, picture, reading, refused
from tests.nets import Linear, Residual, seeded

SIDE = 32
HERE = [{"layer": "colors"}]
ALONE = {"content_weight": 0, "style_weight": 0, "tv_weight": 0}
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)


class Colors(nn.Module):
    """The layer `colors` has those of the image."""

    def __init__(self):
        super().__init__()
        self.colors, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.colors.weight.data, self.colors.bias.data = torch.eye(3)[:, :, None, None], torch.zeros(3)

    def forward(self, x):
        return self.head(self.colors(x).mean((2, 3)))


class Fixed(Colors):
    """Takes one size only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * SIDE * SIDE, 2)

    def forward(self, x):
        return self.head(self.colors(x).flatten(1))


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(Colors), tmp_path_factory.mktemp("style"), side=SIDE)


def transfer(lifted, content, *styles, seen=None, weights=(), **given):
    given = {"size": SIDE, "content_layers": HERE, "style_layers": HERE, **ALONE, **given}
    made = [{"image": style, "weight": w} for style, w in zip(styles, weights or [1.0] * len(styles), strict=True)]
    return ask(lifted, "style_transfer", content, styles=made, seen=seen, **given)


def gram(image):
    flat = image[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def first(seen):
    """The picture that is asked about first for a gradient."""
    return next(step.rows for step, _ in seen if isinstance(step, Ask) and GRAD in step.want)


def test_the_content_alone_is_found_again_from_noise(lifted):
    content = picture(SIDE)
    made = transfer(lifted, content, picture(SIDE, 1), content_weight=1, start="noise", steps=20)
    assert float((made.image - content).abs().max()) < 1e-3 and made.measures["objective"] < 1e-6


def test_the_style_alone_leaves_the_weighted_mean_of_its_grams(lifted):
    styles = picture(SIDE, 1), 0.5 * picture(SIDE, 2)
    made = transfer(lifted, picture(SIDE), *styles, weights=(3.0, 1.0), style_weight=1, steps=60)
    wanted = 0.75 * gram(styles[0]) + 0.25 * gram(styles[1])
    assert float((gram(made.image) - wanted).norm()) < 1e-3 * float(wanted.norm())
    assert float((gram(picture(SIDE)) - wanted).norm()) > 1e-2 * float(wanted.norm())


def test_the_variation_alone_is_a_mean_square_that_falls(lifted):
    content, seen = picture(SIDE), []
    transfer(lifted, content, content, tv_weight=2, steps=5, rate=0.1, seen=seen)
    across, down = content.numpy()[..., 1:] - content.numpy()[..., :-1], content.diff(dim=2).numpy()
    objectives = [step.objective for step, _ in seen if isinstance(step, Frame)]
    assert objectives[0] == pytest.approx(2 * ((across**2).sum() + (down**2).sum()) / content.numel(), rel=1e-9)
    assert len(objectives) == 5 and all(after < before for before, after in pairwise(objectives))


@pytest.mark.parametrize("rate", [None, 0.05])
def test_adams_first_step_is_the_rate_towards_the_content(lifted, rate):
    seen, given = [], {} if rate is None else {"rate": rate}
    content = 0.1 + 0.8 * picture(SIDE)
    adam = {"start": "noise", "optimizer": "adam", "steps": 1, **given}
    made = transfer(lifted, content, content, content_weight=1, seen=seen, **adam)
    theirs = (first(seen) - (rate or 0.02) * (first(seen) - content).sign()).clamp(0, 1)
    assert float((made.image - theirs).abs().max()) < 1e-4


def test_layers_count_by_their_share_of_the_weights(tmp_path):
    net, content, style, seen = seeded(Residual), picture(SIDE), picture(SIDE, 1), []
    lifted = model(net, tmp_path, side=SIDE)
    layers = [{"layer": "stem", "weight": 3.0}, {"layer": "conv", "weight": 1.0}]
    given = {"content_weight": 2, "style_weight": 5, "content_layers": layers, "style_layers": layers[::-1]}
    made = transfer(lifted, content, style, start="noise", steps=1, seen=seen, **given)
    objective = 0.0
    for layer, share in (("stem", 0.75), ("conv", 0.25)):
        x, same, other = (reading(net.double(), rows, layer)[0][None] for rows in (first(seen), content, style))
        objective += 2 * share * float((x - same).square().sum() / same.square().sum())
        objective += 5 * share * float((gram(x) - gram(other)).square().sum() / gram(other).square().sum())
    assert made.measures["objective"] == pytest.approx(objective, rel=1e-9)


def test_noise_lies_around_the_cards_mean_colour(tmp_path):
    mean, seen = (0.5, 0.4, 0.6), []
    card = {"size": (SIDE, SIDE), "mean": mean, "std": (1.0, 1.0, 1.0)}
    lifted = model(seeded(Colors), tmp_path, input=card)
    transfer(lifted, picture(SIDE), picture(SIDE), start="noise", steps=1, seen=seen)
    assert first(seen).mean((0, 2, 3)).tolist() == pytest.approx(mean, abs=0.02)
    assert first(seen).std((0, 2, 3)).tolist() == pytest.approx([0.1] * 3, rel=0.1)


def test_colours_are_kept_under_the_new_lightness(lifted):
    content, style = 0.3 + 0.4 * picture(SIDE), picture(SIDE, 1)
    plain, kept = (
        transfer(lifted, content, style, style_weight=1, steps=3, keep_colors=keep).image for keep in (False, True)
    )
    change = ((plain - content) * LUMA).sum(1, keepdim=True)
    assert float(change.abs().max()) > 0.01 and close(kept, (content + change).clamp(0, 1))
    assert close((kept * LUMA).sum(1), (plain * LUMA).sum(1))


@pytest.mark.parametrize(("size", "shape", "styled"), [(40, (20, 40), (60, 60)), (96, (48, 96), (144, 144))])
def test_longer_sides_are_the_size_and_the_styles_scale_of_it(lifted, size, shape, styled):
    wide, square, seen = picture(48)[..., :24, :], picture(SIDE), []
    made = transfer(lifted, wide, square, size=size, style_scale=1.5, steps=1, seen=seen)
    asked = [step.rows.shape[2:] for step, _ in seen if isinstance(step, Ask)]
    assert made.image.shape[2:] == shape and asked == [shape, styled, shape]


def test_a_model_of_one_size_keeps_the_middle_and_refuses_another(tmp_path):
    lifted = model(seeded(Fixed), tmp_path, side=SIDE)
    seen, wide = [], picture(SIDE).repeat(1, 1, 1, 2)
    transfer(lifted, wide, wide, steps=1, seen=seen)
    assert close(first(seen), wide[..., SIDE // 2 : 3 * SIDE // 2])
    assert refused(lifted, "style_transfer", styles=[{"image": wide}], size=48) == ["style_transfer.size"]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("styles", {"styles": []}),
        ("styles[0].weight", {"styles": [{"image": picture(), "weight": 0}]}),
        ("style_layers[1].layer", {"style_layers": [*HERE, {"layer": "head"}]}),
        ("content_layers[0].layer", {"content_layers": [{"layer": "colours"}]}),
        ("content_layers", {"content_layers": []}),
        ("style_scale", {"size": 2048, "style_scale": 2.5}),
        *[(name, {name: -1}) for name in (*ALONE, "steps", "rate", "size")],
        ("start", {"start": "style"}),
        ("optimizer", {"optimizer": "sgd"}),
    ],
)
def test_refusals_name_the_field(lifted, field, given):
    given = {"styles": [{"image": picture()}], **given}
    assert refused(lifted, "style_transfer", **given) == [f"style_transfer.{field}"]


def test_a_model_without_convolutions_has_no_style(tmp_path):
    with pytest.raises(NotApplicable, match="no convolutional layers"):
        ask(model(seeded(Linear), tmp_path), "style_transfer", picture(), styles=[{"image": picture()}])


@pytest.mark.parametrize(("side", "told"), [(28, "28 pixels only"), (32, None), (2049, "2049 pixels only")])
def test_a_model_of_one_size_must_take_what_a_style_needs(lifted, side, told):
    reason = style_transfer.applies(replace(lifted.facts, any_size=False, size=(side, side)))
    assert reason is None if told is None else told in reason
