"""Models of luminance: what is drawn or moved for them is the same for all three colours."""

import math

import pytest
import torch
from torch import nn

from lightwell_server.contract import Rows
from lightwell_server.models.card import Card
from lightwell_server.models.store import load_file
from tests.methods.asking import ask, picture
from tests.nets import export, seeded


class Grey(nn.Module):
    """Scores of one channel."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    return seeded(Grey).double()


@pytest.fixture(scope="module")
def model(net, tmp_path_factory):
    card = Card.model_validate({"input": {"size": (16, 16), "channels": 1}})
    path = export(net, "scripted", tmp_path_factory.mktemp("grey"))
    return load_file(path, card, (), "grey", "1", "cpu", torch.float64)


def alike(values):
    return bool((values == values[:, :1]).all())


def grey_picture():
    return 0.2 + 0.6 * picture()[:, :1].expand(-1, 3, -1, -1)


def test_an_l2_attack_is_that_on_the_models_own_channel(net, model):
    """A grey step is sqrt(3) times as long over three colours as in the model's channel."""
    given = {"norm": "l2", "epsilon": 0.5, "step": 0.1, "random_start": False, "stop_early": False, "steps": 7}
    made = ask(model, "pgd", grey_picture(), **given)
    start = x = grey_picture()[:, :1]
    label = net(x).argmax(1)
    for _ in range(7):
        x = x.detach().requires_grad_()
        nn.functional.cross_entropy(net(x), label).backward()
        offset = x.detach() + 0.1 / math.sqrt(3) * x.grad / x.grad.norm() - start
        x = (start + offset * min(1, 0.5 / math.sqrt(3) / float(offset.norm()))).clamp(0, 1)
    assert alike(made.image) and torch.allclose(made.image[:, :1], x, atol=1e-9)
    assert float((made.image - grey_picture()).norm()) <= 0.5 + 1e-9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_on_a_coloured_picture_is_grey(model, norm):
    image = 0.2 + 0.6 * picture(seed=1)
    given = {"norm": norm, "epsilon": 0.1, "step": 0.03, "stop_early": False, "steps": 4}
    offset = ask(model, "pgd", image, **given).image - image
    assert offset.abs().max() > 0 and float(offset.std(1).max()) < 1e-12


def test_the_noise_of_smooth_grad_is_grey(model):
    seen = []
    ask(model, "smooth_grad", grey_picture(), seen=seen, samples=3)
    rows = torch.cat([step.rows.make(torch.arange(3)) for step, _ in seen if isinstance(step.rows, Rows)])
    assert len(rows) == 3 and alike(rows) and not torch.equal(rows[0], rows[1])
