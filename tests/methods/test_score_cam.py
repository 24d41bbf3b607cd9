"""Score-CAM: each channel is weighted by the softmax of the scores of the image seen through each alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.contract import ClassTarget
from tests.methods.asking import CLASS, COLORS, TARGET, ask, close, model, picture, refused
from tests.nets import Residual, seeded


class Coarse(nn.Module):
    """Four by four places of a picture of eighteen by eighteen; the first channel has one value at all of them."""

    def __init__(self):
        super().__init__()
        self.patches, self.maps, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.Linear(6, 5)
        self.patches.weight.data[0], self.patches.bias.data[0] = 0, 0.1

    def forward(self, x):
        return self.head(self.maps(self.patches(x)).mean((2, 3)))


@pytest.mark.parametrize("target", [None, ClassTarget(1)])
def test_by_hand(placed, target):
    """Of an image of score 0.5. Seen through red it is 1.5; through green, which shows the last place alone, -1.5. An
    unset target stays class 1, though class 0 is the higher one there."""
    red, green = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.5]], dtype=torch.float64).view(2, 2, 2)
    share = math.exp(1.5) / (math.exp(1.5) + math.exp(-1.5))
    seen = ask(placed, "score_cam", torch.stack([red, green, 0 * red])[None], target)
    assert close(seen.map.values, share * red + (1 - share) * green)


def test_it_looks_through_each_channel(residual, eager, parts):
    activations, image = parts[0], picture()
    low, high = activations.amin((1, 2)).view(-1, 1, 1), activations.amax((1, 2)).view(-1, 1, 1)
    masks = ((activations - low) / (high - low)).nan_to_num()
    weights = eager(masks[:, None] * image).detach()[:, CLASS].softmax(0)
    wanted = (weights.view(-1, 1, 1) * activations).sum(0).relu()
    assert close(ask(residual, "score_cam", image, TARGET).map.values, wanted)


@pytest.mark.parametrize("count", [None, 2])
def test_channels_of_a_named_coarse_layer_are_enlarged_before_they_are_stretched(tmp_path, count):
    net, image = seeded(Coarse), picture(18)
    lifted = model(net, tmp_path, side=18)
    activations = net.double().maps(net.patches(image))[0].detach()
    tried = activations if count is None else activations[activations.mean((1, 2)).topk(count).indices]
    masks = F.interpolate(tried[:, None], size=(18, 18), mode="bilinear")
    masks = masks - masks.amin((2, 3), keepdim=True)
    masks = masks / masks.amax((2, 3), keepdim=True)
    masks[tried.amax((1, 2)) == tried.amin((1, 2))] = 0
    weights = net(masks * image).detach()[:, CLASS].softmax(0)
    theirs = (weights.view(-1, 1, 1) * tried).sum(0).relu()
    assert close(ask(lifted, "score_cam", image, TARGET, layer="maps", max_channels=count).map.values, theirs)


def test_what_is_hidden_has_the_mean_colour(tmp_path):
    card = {"size": (16, 16), "mean": (0.5, 0.25, 0.75), "std": (0.5, 0.5, 0.5)}
    lifted, seen = model(seeded(Residual), tmp_path, input=card), []
    ask(lifted, "score_cam", torch.ones(1, 3, 16, 16, dtype=torch.float64), TARGET, seen=seen, layer="stem")
    rows = seen[-1][0].rows.make(torch.arange(8))
    hidden = rows.amin((2, 3))
    assert torch.allclose(hidden, torch.tensor([[0.5, 0.25, 0.75]], dtype=torch.float64).expand(8, 3))
    assert torch.allclose(rows.amax((2, 3)), torch.ones(8, 3, dtype=torch.float64))


def test_through_a_channel_of_one_value_nothing_is_seen(placed):
    """Green alike everywhere hides all: the score is 0. Seen through red it is 1.5 of red and -0.75 of green."""
    image = COLORS.clone()
    image[:, 1] = 0.25
    share = math.exp(0.75) / (math.exp(0.75) + 1)
    assert close(
        ask(placed, "score_cam", image, ClassTarget(1)).map.values, share * image[0, 0] + (1 - share) * image[0, 1]
    )


def test_no_channel_at_all_is_refused(residual):
    assert refused(residual, "score_cam", max_channels=0) == ["score_cam.max_channels"]
