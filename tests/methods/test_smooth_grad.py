"""SmoothGrad: without noise it is saliency; its noise is the seed's, and a share of the image's own range."""

import pytest
import torch

from lightwell_server.contract import ClassTarget, Rows
from lightwell_server.errors import InvalidArgument
from tests.methods.asking import ask, close, model, picture
from tests.nets import Residual, seeded


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(Residual), tmp_path_factory.mktemp("smooth"))


def noisy(lifted, image, **given):
    """The copies that the model is asked about."""
    seen = []
    ask(lifted, "smooth_grad", image, seen=seen, **given)
    rows = [step.rows for step, _ in seen if isinstance(step.rows, Rows)]
    return torch.cat([part.make(torch.arange(part.count)) for part in rows])


def test_without_noise_it_is_saliency(lifted):
    image = picture()
    plain = ask(lifted, "saliency", image).map.values
    assert close(ask(lifted, "smooth_grad", image, noise=0.0).map.values, plain)
    assert close(ask(lifted, "smooth_grad", image, noise=0.0, squared=True).map.values, plain.square())
    assert ask(lifted, "smooth_grad", image, noise=0.0, variance=True).map.values.max() < 1e-12


def test_the_same_seed_is_the_same_map_and_another_is_not(lifted):
    maps = [ask(lifted, "smooth_grad", picture(), seed=seed).map.values for seed in (3, 3, 4)]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


def test_noise_is_a_share_of_the_images_own_range(lifted):
    image = 0.4 + 0.2 * picture()
    copies = noisy(lifted, image, samples=200, noise=0.5)
    spread = float((copies - image).std() / (image.max() - image.min()))
    assert copies.shape == (200, 3, 16, 16) and spread == pytest.approx(0.5, rel=0.01)


def test_its_means_are_those_of_the_gradients_of_its_copies(lifted):
    image, target = picture(), ClassTarget(2)
    copies = noisy(lifted, image, samples=70, seed=5)  # more than are asked for at once
    grads = torch.stack(
        [ask(lifted, "saliency", x[None], target, magnitude=False, channels="none").tensors["gradient"] for x in copies]
    )
    wanted = {
        "none": grads.abs().mean(0),
        "squared": grads.square().mean(0),
        "variance": grads.var(0, correction=0),
    }
    for kind, theirs in wanted.items():
        given = {kind: True} if kind != "none" else {}
        ours = ask(lifted, "smooth_grad", image, target, seed=5, samples=70, channels="none", **given)
        assert not ours.map.signed and close(ours.tensors["attribution"], theirs), kind


def test_two_means_at_once_are_refused(lifted):
    with pytest.raises(InvalidArgument, match="choose one of them"):
        ask(lifted, "smooth_grad", picture(), squared=True, variance=True)
