"""Class activation maps equal pytorch-grad-cam's, before and after its own rescaling, and captum's where it has them:
every method on every file, at its default layer and at earlier ones."""

import pytest
import torch

from lightwell_server.catalog import catalog
from lightwell_server.contract import ClassTarget
from tests.peers.cams import MENDED, ONE_PASS, TRYING, agree_as_pictures, agree_cut_off, cam, tried
from tests.peers.captums import grad_cam
from tests.peers.files import FILES, LAYERS, PLACES
from tests.peers.twins import agree, distance

POOLED = [file for file in FILES if not file.startswith(("vgg19_bn", "convnext_tiny", "vit_b_16"))]
"""Files that end in a global average pooling; test_peers_refusals.py shows that cam is refused for the others."""


@pytest.mark.parametrize(("case", "layer"), PLACES, indirect=["case"])
@pytest.mark.parametrize("method", ONE_PASS)
def test_one_pass(case, layer, method):
    raw, picture = cam(method, case.twin, layer)
    ours = case.ask(method, layer=case.named(layer)).map
    agree_cut_off(ours.values, raw)
    agree_as_pictures(ours, picture)


@pytest.mark.parametrize(("case", "layer"), PLACES, indirect=["case"])
def test_grad_cam_with_its_negative_values(case, layer):
    ours = case.ask("grad_cam", layer=case.named(layer), relu=False).map.values
    agree(ours, cam("grad_cam", case.twin, layer)[0])
    if case.name != "vit_b_16":  # captum would take its tokens for channels
        agree(ours, grad_cam(case.twin, layer))


def test_default_layer(case):
    named = case.ask("grad_cam", layer=case.named(case.default), relu=False).map.values
    agree(case.ask("grad_cam", relu=False).map.values, named, 0)
    chosen = {method: catalog()[method].defaults(case.model.facts) for method in (*MENDED, "guided_grad_cam")}
    assert all(defaults == chosen["grad_cam"] for defaults in chosen.values())


@pytest.mark.parametrize("case", POOLED, indirect=True)
def test_cam(case):
    """captum's Grad-CAM takes the mean of a pooled layer's gradients, the weights divided by the number of places; the
    map's mean is the score without the linear layer's bias."""
    layer = {"densenet121": "relu"}.get(case.name, LAYERS[case.name][-1])
    ours = case.ask("cam").map.values
    agree(ours, grad_cam(case.twin, layer) * ours.numel())
    linear = [module for module in case.twin.net.modules() if isinstance(module, torch.nn.Linear)]
    bias = float(linear[-1].bias[case.top]) if linear else 0
    agree(ours.mean() + bias, case.twin(case.image)[0, case.top])


@pytest.mark.parametrize("method", TRYING)
def test_trying_a_few_channels(case, method):
    raw, picture = tried(method, case.twin, case.default, 6)
    ours = case.ask(method, layer=case.named(case.default), max_channels=6).map
    agree_cut_off(ours.values, raw)
    agree_as_pictures(ours, picture)


# At layers of few channels, and of values below zero, all of them.
WHOLE = [
    (f"{name}-{form}", layer)
    for name, layer, form in (
        ("resnet18", "bn1", "scripted"),
        ("squeezenet1_1", "classifier.2", "pt2"),
        ("mobilenet_v2", "features.0.1", "traced"),
        ("mobilenet_v2", "features.0.1", "frozen"),
        ("efficientnet_b0", "features.0.1", "pt2"),
    )
]


@pytest.mark.parametrize(("case", "layer"), WHOLE, indirect=["case"])
@pytest.mark.parametrize("method", TRYING)
def test_trying_every_channel(case, layer, method):
    raw, _ = tried(method, case.twin, layer, None)
    agree_cut_off(case.ask(method, layer=case.named(layer)).map.values, raw)


# What was mended, where it shows: how far the peer as it is lies from itself as it is mended, at least. Gradients and
# sums of channels are large enough here to hide most of its epsilons; single precision does not let it come nearer.
AS_IT_IS = {
    "grad_cam_plus_plus": (cam, ("bn1",), 1e-6),
    "x_grad_cam": (cam, ("bn1",), 1e-8),
    "eigen_cam": (cam, ("bn1",), 1e-9),
    "ablation_cam": (tried, ("layer1.0.bn2", None), 0.1),  # right in front of a ReLU zero and less are the same
    "score_cam": (tried, ("bn1", None), 1e-3),
}


@pytest.mark.parametrize("case", ["resnet18-scripted"], indirect=True)
@pytest.mark.parametrize("method", AS_IT_IS)
def test_what_is_mended(case, method):
    run, place, least = AS_IT_IS[method]
    mended, as_it_is = (run(method, case.twin, *place, mended=mended)[0] for mended in (True, False))
    assert distance(as_it_is, mended) > least


@pytest.mark.parametrize("case", ["mobilenet_v2-traced"], indirect=True)
def test_ablation_of_a_negative_score(case):
    """Behind a ReLU pytorch-grad-cam sets channels to zero as we do; but it turns the map of a negative score round."""
    scores = case.twin(case.image)[0]
    target = int(scores.argmin())
    assert scores[target] < 0
    raw, _ = tried("ablation_cam", case.twin, "features.0", None, target=target, mended=False)
    ours = case.ask("ablation_cam", ClassTarget(target), layer="features.0").map.values
    agree(ours - raw.clamp(min=0), -raw, 1e-4)  # in single precision
