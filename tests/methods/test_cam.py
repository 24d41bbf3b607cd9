"""CAM: exact where a model ends in global average pooling and a linear layer, or in pooling alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.contract import ChannelTarget, ClassTarget, ContrastTarget
from lightwell_server.errors import InvalidArgument, NotApplicable
from tests.methods.asking import ask, close, model, picture
from tests.nets import FORMS, Residual, seeded


class Squeezed(nn.Module):
    """A 1x1 convolution to the classes, ReLU, pooling."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Sequential(nn.Dropout(), nn.Conv2d(8, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))

    def forward(self, x):
        return torch.flatten(self.head(self.body(x).relu()), 1)


class Averaged(Residual):
    """The mean written as a mean, and a dropout behind it."""

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        return self.head(F.dropout(self.conv(x).relu().mean([-1, -2]), 0.5, self.training))


class Windowed(Residual):
    """A window of the whole size is the mean, too."""

    def forward(self, x):
        return self.head(F.avg_pool2d(self.relu(self.stem(x)), 16).squeeze(3).squeeze(2))


class Twice(Residual):
    """More than a linear layer behind the pooling."""

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.relu(self.stem(x)), 1).flatten(1).tanh())


class Flat(Residual):
    """No pooling."""

    def forward(self, x):
        return F.avg_pool2d(self.stem(x), 4).flatten(1)[:, :5]


ENDS = (Residual, Averaged, Windowed)


@pytest.mark.parametrize("form", (*FORMS, "frozen"))
@pytest.mark.parametrize("make", ENDS)
def test_the_maps_mean_and_the_bias_are_the_score(tmp_path, make, form):
    net, image = seeded(make), picture()
    lifted = model(net, tmp_path, form)
    seen, score = ask(lifted, "cam", image, ClassTarget(3)), net.double()(image)[0, 3].detach()
    assert close(seen.map.values.mean() + net.head.bias[3].detach(), score)
    assert seen.map.signed and seen.map.values.shape == (16, 16)


@pytest.mark.parametrize("form", (*FORMS, "frozen"))
def test_grad_cam_is_its_share_of_a_position(tmp_path, form):
    lifted, image = model(seeded(Residual), tmp_path, form), picture()
    plain = ask(lifted, "grad_cam", image, ClassTarget(3), relu=False).map.values
    assert close(ask(lifted, "cam", image, ClassTarget(3)).map.values, plain * 256)


@pytest.mark.parametrize("form", (*FORMS, "frozen"))
def test_of_pooling_alone_the_map_is_the_classs_own(tmp_path, form):
    net, image = seeded(Squeezed), picture()
    seen = ask(model(net, tmp_path, form), "cam", image)
    net = net.double()
    own = (net.head[1](net.body(image).relu())).relu()[0]
    top = int(own.mean((1, 2)).argmax())
    assert close(seen.map.values, own[top].detach())
    assert close(seen.map.values.mean(), net(image)[0, top].detach())


def test_a_contrast_is_the_difference_of_two_maps(tmp_path):
    lifted, image = model(seeded(Residual), tmp_path), picture()
    one, other = (ask(lifted, "cam", image, ClassTarget(k)).map.values for k in (1, 4))
    assert close(ask(lifted, "cam", image, ContrastTarget(1, 4)).map.values, one - other)


@pytest.mark.parametrize("make", [Twice, Flat])
def test_elsewhere_it_is_refused_and_names_grad_cam(tmp_path, make):
    with pytest.raises(NotApplicable, match=r"global average pooling.*use grad_cam"):
        ask(model(seeded(make), tmp_path), "cam", picture())


@pytest.mark.parametrize("target", [ClassTarget(1, "probability"), ChannelTarget("stem", 0)])
def test_it_explains_scores_alone(tmp_path, target):
    with pytest.raises(InvalidArgument, match="cam explains scores"):
        ask(model(seeded(Residual), tmp_path), "cam", picture(), target)
