"""What holds for several class activation maps: their layers, tokens, targets, channels, and what they refuse."""

import pytest
import torch
from torch import nn

from lightwell_server.contract import ChannelTarget
from lightwell_server.errors import InvalidArgument, NotApplicable
from tests.methods.asking import CLASS, TARGET, Tokens, ask, close, model, picture
from tests.nets import FORMS, Linear, seeded

ONE_GRADIENT = ("grad_cam", "grad_cam_plus_plus", "x_grad_cam", "hires_cam", "layer_cam")
CAMS = (*ONE_GRADIENT, "eigen_cam", "ablation_cam", "score_cam")


class Windowed(nn.Module):
    """Places whose channels come last, as networks with windows keep them: a norm, a linear layer and a skip."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 2, stride=2)
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
        self.block = nn.Identity()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        x = self.block(x + self.mix(self.norm(x)).roll((1, 2), (1, 2)))
        return self.head(x.mean((1, 2)))


@pytest.mark.parametrize("name", ["ablation_cam", "score_cam"])
def test_the_channels_of_the_largest_mean_alone(residual, parts, name):
    seen = []
    some = ask(residual, name, picture(), TARGET, max_channels=3, seen=seen)
    assert seen[-1][0].count == 3
    strongest = set(parts[0].mean((1, 2)).topk(3).indices.tolist())
    others = [k for k in range(8) if k not in strongest]
    # What the others show must not be in the map: it is made of three channels.
    basis = parts[0][sorted(strongest)].flatten(1).T
    flat = some.map.values.flatten()
    inside = flat > 0
    fit = torch.linalg.lstsq(basis[inside], flat[inside, None]).solution
    assert float((basis[inside] @ fit - flat[inside, None]).abs().max()) < 1e-8 * float(flat.max())
    assert len(others) == 5
    every = ask(residual, name, picture(), TARGET, max_channels=800)
    assert close(every.map.values, ask(residual, name, picture(), TARGET).map.values)


@pytest.mark.parametrize("name", CAMS)
def test_tokens_are_a_grid_without_the_class_token(tmp_path, name):
    lifted = model(seeded(Tokens), tmp_path)
    seen = ask(lifted, name, picture(), TARGET)
    assert seen.map.values.shape == (4, 4) and seen.map.enlargement == "bilinear"
    assert bool(seen.map.values.any())


@pytest.mark.parametrize("name", CAMS)
def test_a_target_within_the_model(residual, name):
    values = ask(residual, name, picture(), ChannelTarget("conv", 2), layer="stem").map.values
    assert values.shape == (16, 16) and bool(values.isfinite().all())


@pytest.mark.parametrize("name", [*CAMS, "guided_grad_cam", "activations"])
def test_layers_need_height_and_width(residual, name):
    with pytest.raises(InvalidArgument, match=rf"{name}.layer: head has no height and width; its output is \[5\]"):
        ask(residual, name, picture(), layer="head")
    with pytest.raises(InvalidArgument, match=f"{name}.layer: the model has no layer 'conf'"):
        ask(residual, name, picture(), layer="conf")


@pytest.mark.parametrize("name", [*CAMS, "activations"])
def test_a_model_without_such_layers_is_refused(tmp_path, name):
    with pytest.raises(NotApplicable, match="no layer with height and width"):
        ask(model(seeded(Linear), tmp_path), name, picture())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CAMS)
def test_channels_that_come_last_are_read_as_all_others(tmp_path, name, form):
    """The same sums with channels first give the same maps."""
    windowed = seeded(Windowed)
    lifted, image = model(windowed, tmp_path, form), picture()
    last = [layer.name for layer in lifted.facts.layers if layer.shape == (6, 8, 8)][-1]
    assert lifted.facts.layer("norm").shape == (6, 8, 8) and lifted.facts.layer("mix.0").shape == (12, 8, 8)
    seen = ask(lifted, name, image, TARGET, layer=last)
    assert seen.map.values.shape == (8, 8)
    eager = windowed.double()
    x = eager.patches(image).permute(0, 2, 3, 1)
    whole = x + eager.mix(eager.norm(x)).roll((1, 2), (1, 2))
    if name in ("grad_cam", "hires_cam", "x_grad_cam"):  # all alike on the mean of places and a linear layer
        weights = eager.head.weight[CLASS].detach() / 64
        assert close(seen.map.values, (whole.detach()[0] * weights).sum(2).relu())
    channel = ask(lifted, "saliency", image, ChannelTarget(last, 4), channels="none", magnitude=False)
    rows = image.clone().requires_grad_()
    x = eager.patches(rows).permute(0, 2, 3, 1)
    (x + eager.mix(eager.norm(x)).roll((1, 2), (1, 2)))[..., 4].mean().backward()
    assert close(channel.tensors["gradient"], rows.grad[0])
