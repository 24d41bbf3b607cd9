"""Occlusion: of an additive model the drop is what the masked pixels added; what is left of it is the network's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.contract import ChannelTarget, ClassTarget
from tests.methods.asking import ask, close, model, picture, refused
from tests.nets import seeded

HEIGHT, WIDTH = 6, 9
INPUT = {"size": (HEIGHT, WIDTH), "mean": (0.5, 0.25, 0.75)}
TARGET = ClassTarget(1)
FILLINGS = {
    "mean": lambda image: colour(INPUT["mean"]),
    "image_mean": lambda image: image.mean((2, 3), keepdim=True),
    "black": lambda image: colour((0, 0, 0)),
    "grey": lambda image: colour((0.5, 0.5, 0.5)),
    "blur": lambda image: smoothed(image),
}
READOUTS = {"score": lambda s: s, "probability": lambda s: s.softmax(1), "log_probability": lambda s: s.log_softmax(1)}


def additive():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * HEIGHT * WIDTH, 4))


@pytest.fixture(scope="module")
def net():
    return seeded(additive).double()


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return model(seeded(additive), tmp_path_factory.mktemp("occlusion"), input={**INPUT, "std": (1.0, 1.0, 1.0)})


@pytest.fixture(scope="module")
def image():
    return picture()[..., :HEIGHT, :WIDTH].contiguous()


def colour(values):
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


def smoothed(image):
    """Under a Gaussian of a quarter of a window of 3, up to three of its deviations, edges mirrored."""
    line = torch.exp(-(torch.arange(-3.0, 4.0, dtype=torch.float64) ** 2) / (2 * 0.75**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(image, [3] * 4, "reflect"), kernel.expand(3, 1, 7, 7), groups=3)


def begins(side, window, stride):
    """Where windows begin: up to the first that reaches the edge, and never behind it."""
    found = [0]
    while found[-1] + max(window, stride) < side:
        found.append(found[-1] + stride)
    return found


def masked(image, filling, window, stride):
    """Every masked picture, [rows, columns, 3, H, W]; windows that stick out at the end are cut off there."""
    rows, columns = (begins(side, window, stride) for side in image.shape[2:])
    made = image.repeat(len(rows), len(columns), 1, 1, 1)
    for r, top in enumerate(rows):
        for c, left in enumerate(columns):
            inside = ..., slice(top, top + window), slice(left, left + window)
            made[r, c][inside] = filling.expand_as(image)[0][inside]
    return made


@pytest.mark.parametrize(("given", "filling"), [({"fill": name}, name) for name in FILLINGS] + [({}, "mean")])
def test_the_drop_is_the_sum_of_what_the_masked_pixels_added(lifted, net, image, given, filling):
    seen = ask(lifted, "occlusion", image, TARGET, window=3, stride=2, value="score", **given).map
    lost = image - masked(image, FILLINGS[filling](image), 3, 2)
    assert close(seen.values, (lost * net[1].weight[1].detach().view(3, HEIGHT, WIDTH)).sum((2, 3, 4)))
    assert seen.signed and (seen.enlargement, seen.window, seen.stride) == ("windows", 3, 2)


def test_a_colour_takes_the_place_of_the_filling(lifted, image):
    own = ask(lifted, "occlusion", image, TARGET, window=3, stride=2, color=(0.5, 0.5, 0.5), fill="black").map.values
    assert close(own, ask(lifted, "occlusion", image, TARGET, window=3, stride=2, fill="grey").map.values)


@pytest.mark.parametrize(
    ("window", "stride", "shape"),
    [(3, 3, (2, 3)), (6, 2, (1, 3)), (1, 1, (6, 9)), (5, 4, (2, 2)), (2, 4, (2, 3)), (6, 9, (1, 1))],
)
@pytest.mark.parametrize("value", READOUTS)
def test_what_is_left_is_the_networks_value_of_each_masked_picture(lifted, net, image, window, stride, shape, value):
    rows = masked(image, colour(INPUT["mean"]), window, stride).flatten(0, 1)
    scores, clean = (net(x - colour(INPUT["mean"])).detach() for x in (rows, image))
    seen = ask(lifted, "occlusion", image, TARGET, window=window, stride=stride, value=value)
    left, whole = READOUTS[value](scores)[:, 1].view(shape), READOUTS[value](clean)[0, 1]
    assert close(seen.tensors["value"], left) and close(seen.map.values, whole - left)
    assert seen.measures["clean_value"] == pytest.approx(float(whole), abs=1e-12)
    assert torch.equal(seen.tensors["top_class"].long(), scores.argmax(1).view(shape))


def test_unset_it_is_the_probability_of_the_whole_images_class_under_windows_of_32_every_16(tmp_path):
    """Each half of the image is a class; a window on the brighter left lets the other class win."""
    net = nn.Sequential(nn.AvgPool2d((64, 32)), nn.Conv2d(3, 1, 1), nn.Flatten()).eval()
    net[1].weight.data.fill_(1.0)
    image = torch.full((1, 3, 64, 64), 0.25, dtype=torch.float64)
    image[..., :32] = 0.375
    seen = ask(model(net, tmp_path, side=64), "occlusion", image)
    scores = net.double()(masked(image, colour((0, 0, 0)), 32, 16).flatten(0, 1)).detach()
    assert close(seen.tensors["value"], scores.softmax(1)[:, 0].view(3, 3))
    assert seen.tensors["top_class"].unique().tolist() == [0, 1] and (seen.map.window, seen.map.stride) == (32, 16)


def test_a_target_within_the_model_has_values_and_no_classes(residual, eager):
    seen = ask(residual, "occlusion", picture(), ChannelTarget("stem", 4), window=4, stride=6)
    rows = masked(picture(), colour((0, 0, 0)), 4, 6)
    assert close(seen.tensors["value"], eager.stem(rows.flatten(0, 1))[:, 4].mean((1, 2)).view(3, 3).detach())
    assert set(seen.tensors) == {"value"}


def test_a_model_without_probabilities_is_read_by_its_scores(tmp_path, image):
    regression = model(seeded(additive), tmp_path, input=INPUT, output={"activation": "none"})
    given = {"window": 3, "stride": 2}
    unset, score = (ask(regression, "occlusion", image, TARGET, **given, **more) for more in ({}, {"value": "score"}))
    assert torch.equal(unset.map.values, score.map.values)
    assert refused(regression, "occlusion", image, TARGET, value="probability", **given) == ["occlusion.value"]


@pytest.mark.parametrize(
    ("field", "given"),
    [("window", {"window": 7}), ("window", {"window": 0}), ("stride", {"stride": 0}), ("value", {"value": "logit"}),
     ("fill", {"fill": "red"}), ("color.green", {"color": {"red": 0, "green": 1.5, "blue": 0}})],
)  # fmt: skip
def test_refusals_name_the_field(lifted, image, field, given):
    assert refused(lifted, "occlusion", image, TARGET, **given) == [f"occlusion.{field}"]


def test_windows_that_are_apart_all_lie_in_the_image(lifted, image):
    """Of a side of 9 pixels, windows of 1 at every 4th: at 0, 4 and 8. Of a side of 6: at 0 and 4."""
    values = ask(lifted, "occlusion", image, TARGET, window=1, stride=4).map.values
    assert values.shape == (2, 3) and bool(values.all())
