"""Laws of the class activation maps: what each weighs its layer's channels, or places, with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.contract import ChannelTarget, ClassTarget
from lightwell_server.errors import InvalidArgument, NotApplicable
from tests.methods.asking import ask, close, model, picture
from tests.nets import FORMS, Linear, Residual, seeded

ONE_GRADIENT = ("grad_cam", "grad_cam_plus_plus", "x_grad_cam", "hires_cam", "layer_cam")
CAMS = (*ONE_GRADIENT, "eigen_cam", "ablation_cam", "score_cam")
CLASS = 2
TARGET = ClassTarget(CLASS)


class Tokens(nn.Module):
    """Sixteen places as tokens behind a class token, with attention between them."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))
        x = x + F.scaled_dot_product_attention(x, x, x)
        return self.head(x[:, 0])


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


@pytest.fixture(scope="module")
def net():
    return seeded(Residual).double()


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(Residual), tmp_path_factory.mktemp("cams"))


@pytest.fixture(scope="module")
def parts(net):
    """Activations of the last layer, and the score's gradient there."""
    x = net.relu(net.norm(net.stem(picture())))
    activations = (net.conv(x) + x).relu().detach().requires_grad_()
    score = net.head(activations.mean((2, 3)))[0, CLASS]
    (grads,) = torch.autograd.grad(score, activations)
    return activations.detach()[0], grads[0], score.detach()


def test_the_formulas_of_one_gradient(lifted, parts):
    activations, grads, _ = parts
    whole = (1, 2)
    totals = activations.sum(whole, keepdim=True)
    # The paper's: second and third derivatives of exp(score), each divided by exp(score).
    alpha = grads**2 / (2 * grads**2 + totals * grads**3)
    wanted = {
        "grad_cam": grads.mean(whole, keepdim=True) * activations,
        "grad_cam_plus_plus": (alpha * grads.relu()).sum(whole, keepdim=True) * activations,
        "x_grad_cam": (grads * activations / totals.clamp(min=1e-300)).sum(whole, keepdim=True) * activations,
        "hires_cam": grads * activations,
        "layer_cam": grads.relu() * activations,
    }
    for name, channels in wanted.items():
        assert close(ask(lifted, name, picture(), TARGET).map.values, channels.sum(0).relu()), name


def test_hires_cam_and_x_grad_cam_add_up_to_the_score(tmp_path):
    """On pooling and a linear layer without bias, where every weight is positive, so that nothing is cut off."""
    net = seeded(Residual)
    net.head.weight.data.abs_()
    net.head.bias.data.zero_()
    lifted, score = model(net, tmp_path), net.double()(picture())[0, CLASS].detach()
    for name in ("hires_cam", "x_grad_cam"):
        assert close(ask(lifted, name, picture(), TARGET).map.values.sum(), score), name


def test_eigen_cam_is_the_first_principal_component_whatever_the_target(lifted, parts):
    places = parts[0].flatten(1).T
    _, _, axes = torch.linalg.svd(places - places.mean(0))
    component = ((places - places.mean(0)) @ axes[0]).view(16, 16)
    values = ask(lifted, "eigen_cam", picture(), TARGET).map.values
    assert close(values, component.relu()) or close(values, (-component).relu())
    assert float((values * parts[0].mean(0)).sum()) > float((-values * parts[0].mean(0)).sum())
    assert torch.equal(values, ask(lifted, "eigen_cam", picture(), ClassTarget(1)).map.values)


def test_of_activations_that_are_not_finite_no_component_is_made_up(lifted):
    seen = ask(lifted, "eigen_cam", torch.full((1, 3, 16, 16), torch.nan, dtype=torch.float64), TARGET)
    assert bool(seen.map.values.isnan().all())


def test_ablation_cam_takes_each_channel_away(lifted, net, parts):
    activations, _, score = parts
    weights = []
    for k in range(8):
        without = activations.clone()
        without[k] = 0
        weights.append((score - net.head(without.mean((1, 2)))[CLASS].detach()) / score.abs())
    wanted = (torch.stack(weights).view(8, 1, 1) * activations).sum(0).relu()
    assert close(ask(lifted, "ablation_cam", picture(), TARGET).map.values, wanted)


def test_ablation_cam_of_a_negative_score_is_not_turned_round(tmp_path):
    """Where every channel speaks for the class, and the bias alone makes its score negative."""
    net = seeded(Residual)
    net.head.weight.data.abs_()
    net.head.bias.data.fill_(-100.0)
    lifted = model(net, tmp_path)
    assert float(ask(lifted, "ablation_cam", picture(), TARGET).map.values.max()) > 0


def test_score_cam_looks_through_each_channel(lifted, net, parts):
    activations, image = parts[0], picture()
    low, high = activations.amin((1, 2)).view(-1, 1, 1), activations.amax((1, 2)).view(-1, 1, 1)
    masks = ((activations - low) / (high - low)).nan_to_num()
    weights = net(masks[:, None] * image).detach()[:, CLASS].softmax(0)
    wanted = (weights.view(-1, 1, 1) * activations).sum(0).relu()
    assert close(ask(lifted, "score_cam", image, TARGET).map.values, wanted)


def test_score_cam_hides_under_the_mean_colour(tmp_path):
    card = {"size": (16, 16), "mean": (0.5, 0.25, 0.75), "std": (0.5, 0.5, 0.5)}
    lifted, seen = model(seeded(Residual), tmp_path, input=card), []
    ask(lifted, "score_cam", torch.ones(1, 3, 16, 16, dtype=torch.float64), TARGET, seen=seen, layer="stem")
    rows = seen[-1][0].rows.make(torch.arange(8))
    hidden = rows.amin((2, 3))
    assert torch.allclose(hidden, torch.tensor([[0.5, 0.25, 0.75]], dtype=torch.float64).expand(8, 3))
    assert torch.allclose(rows.amax((2, 3)), torch.ones(8, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["ablation_cam", "score_cam"])
def test_the_channels_of_the_largest_mean_alone(lifted, parts, name):
    seen = []
    some = ask(lifted, name, picture(), TARGET, max_channels=3, seen=seen)
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
    every = ask(lifted, name, picture(), TARGET, max_channels=800)
    assert close(every.map.values, ask(lifted, name, picture(), TARGET).map.values)


@pytest.mark.parametrize("name", CAMS)
def test_tokens_are_a_grid_without_the_class_token(tmp_path, name):
    lifted = model(seeded(Tokens), tmp_path)
    seen = ask(lifted, name, picture(), TARGET)
    assert seen.map.values.shape == (4, 4) and seen.map.enlargement == "bilinear"
    assert bool(seen.map.values.any())


@pytest.mark.parametrize("name", CAMS)
def test_a_target_within_the_model(lifted, name):
    values = ask(lifted, name, picture(), ChannelTarget("conv", 2), layer="stem").map.values
    assert values.shape == (16, 16) and bool(values.isfinite().all())


@pytest.mark.parametrize("name", [*CAMS, "guided_grad_cam", "activations"])
def test_layers_need_height_and_width(lifted, name):
    with pytest.raises(InvalidArgument, match=r"head has no height and width; its output is \[5\]"):
        ask(lifted, name, picture(), layer="head")
    with pytest.raises(InvalidArgument, match="the model has no layer 'conf'"):
        ask(lifted, name, picture(), layer="conf")


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
