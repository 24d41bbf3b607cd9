"""Input times gradient, SmoothGrad and integrated gradients are captum's of the eager network."""

import captum.attr as captum
import pytest
import torch

from lightwell_server.contract import ClassTarget
from lightwell_server.methods._math import blurred
from tests.peers.captums import KINDS, RULES, attributed, integrated, smoothed, well_integrated
from tests.peers.conftest import CARD
from tests.peers.files import MIXED
from tests.peers.twins import agree, distance, picture

MEAN = torch.tensor(CARD.input.mean, dtype=torch.float64).view(1, 3, 1, 1)


def test_input_x_gradient_in_pixels(case):
    agree(case.ask("input_x_gradient", scale="pixels").map.values, attributed("InputXGradient", case.twin).sum(0))


def test_input_x_gradient_in_the_models_scale(case):
    # captum of the bare network, which is fed what it is trained on.
    inputs = (case.image - case.twin.zero) / case.twin.unit
    theirs = captum.InputXGradient(case.twin.net).attribute(inputs.requires_grad_(), target=case.top)[0].detach()
    ours = case.ask("input_x_gradient", channels="none")
    agree(ours.tensors["attribution"], theirs)


def test_smooth_grad(case):
    agree(*smoothed(case, "smoothgrad", 2))


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_smooth_grad_of_every_kind(case, kind):
    agree(*smoothed(case, kind, 3))


@pytest.mark.parametrize("case", MIXED[:1], indirect=True)
def test_noise_is_a_share_of_the_images_range(case):
    """captum's is absolute; ours of an image with half the range is half as strong."""
    narrow = 0.25 + case.image / 2
    for image, share in ((case.image, 1.0), (narrow, 0.5)):
        seen = []
        case.ask("smooth_grad", image=image, seen=seen, samples=3, noise=0.1)
        rows = seen[1][0].rows.make(torch.arange(3))
        span = float(case.image.max() - case.image.min())
        assert abs(float((rows - image).std()) / (0.1 * span * share) - 1) < 0.03


BASELINES = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "mean": lambda image: MEAN.expand_as(image),
    "blur": lambda image: blurred(image, 6.4),  # equal to torchvision's, as test_peers_occlusion.py shows
}
# Of a start of one colour all values under a max-pool are the same but for rounding, which then chooses the gradient's
# way. A rule that looks at the start itself is compared there on the network without a max-pool.
WAYS = [
    (file, baseline, quadrature)
    for file in MIXED
    for baseline in BASELINES
    for quadrature in RULES
    if baseline == "blur" or quadrature not in ("left", "trapezoid") or file.startswith("mobilenet")
]
integrals = {}


def test_integrated_gradients(case):
    if case.twin not in integrals:
        integrals[case.twin] = well_integrated(case.twin, torch.zeros_like(case.image), "gauss_legendre", 2)
    ours = case.ask("integrated_gradients", steps=2, channels="none")
    agree(ours.tensors["attribution"], integrals[case.twin])


@pytest.mark.parametrize(("case", "baseline", "quadrature"), WAYS, indirect=["case"])
def test_every_quadrature_and_baseline(case, baseline, quadrature):
    start = BASELINES[baseline](case.image)
    theirs = well_integrated(case.twin, start, quadrature, 5)
    ours = case.ask("integrated_gradients", steps=5, baseline=baseline, quadrature=quadrature, channels="none")
    agree(ours.tensors["attribution"], theirs)
    clean, below = (float(case.twin(x)[0, case.top]) for x in (case.image, start))
    agree(ours.measures["baseline_score"], below)
    assert abs(ours.measures["completeness_gap"] - (float(theirs.sum()) - clean + below)) < 1e-9


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("quadrature", RULES)
def test_captum_as_it_is(case, quadrature):
    """It rounds its weights; those of its trapezoid sum to 4 / 5 of five points, where ours sum to one."""
    theirs = integrated(case.twin, picture(1), quadrature, 5)
    given = {"baseline_image": picture(1), "steps": 5, "quadrature": quadrature, "channels": "none"}
    ours = case.ask("integrated_gradients", **given).tensors["attribution"]
    share = 4 / 5 if quadrature == "trapezoid" else 1
    agree(share * ours, theirs, 1e-6)
    assert distance(ours, theirs) > 1e-9


@pytest.mark.parametrize("case", MIXED, indirect=True)
def test_from_another_image_to_another_class(case):
    start = picture(1)
    theirs = captum.IntegratedGradients(case.twin).attribute(case.twin.leaf, baselines=start, target=3, n_steps=8)
    given = {"baseline_image": start, "steps": 8, "channels": "none"}
    ours = case.ask("integrated_gradients", ClassTarget(3), **given)
    agree(ours.tensors["attribution"], theirs[0].detach(), 1e-6)
