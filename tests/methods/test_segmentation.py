"""Segmentation: the object is where the saliency says, to the edges of its colours; the same seed is the same mask."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lightwell_server.contract import ClassTarget, Work
from lightwell_server.errors import InvalidArgument
from tests.methods.asking import ask, model, picture

SIDE = 48


class Middle(nn.Module):
    """Looks at a few pixels in the middle alone."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * SIDE * SIDE, 2)
        weights = torch.zeros(2, 3, SIDE, SIDE)
        weights[1, :, 20:28, 20:28] = torch.rand(3, 8, 8) + 0.1
        weights[1, :, 12:36, 12:36] += 0.01
        self.fc.weight.data = weights.flatten(1)

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    torch.manual_seed(0)
    return model(Middle(), tmp_path_factory.mktemp("cut"), side=SIDE)


def disc():
    """A red disc on a green ground, and which pixels it covers."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    inside = (rows - 24) ** 2 + (columns - 24) ** 2 < 12**2
    colors = torch.where(
        inside, torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1), torch.tensor([0.1, 0.6, 0.2]).view(3, 1, 1)
    )
    noise = 0.05 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return (colors + noise).clamp(0, 1)[None].double(), inside


def mask(lifted, image, **given):
    return ask(lifted, "segmentation", image, ClassTarget(1), **given).tensors["mask"]


def test_the_object_is_found_to_its_edge(lifted):
    image, inside = disc()
    found = mask(lifted, image, background=0.5).bool()
    assert float((found & inside).sum() / (found | inside).sum()) > 0.95


class Noisy(nn.Module):
    """Looks at the disc of `disc`, at some of its pixels much and at others hardly, and a little at all around it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * SIDE * SIDE, 2)
        strength = torch.where(disc()[1], 1.0, 0.3) * torch.rand(SIDE, SIDE) ** 2
        self.fc.weight.data = torch.stack([torch.zeros(3, SIDE, SIDE), strength.expand(3, -1, -1)]).flatten(1)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_noise_in_the_saliency_makes_neither_holes_nor_specks(tmp_path):
    torch.manual_seed(0)
    image, inside = disc()
    found = mask(model(Noisy(), tmp_path, side=SIDE), image, background=0.5).bool()
    assert int((found ^ inside).sum()) < 0.02 * SIDE * SIDE


def test_the_same_seed_is_the_same_mask(lifted):
    image = picture(SIDE)
    masks = [mask(lifted, image, seed=seed, background=0.6) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert 0 < int(masks[0].sum()) < SIDE * SIDE


def test_its_map_is_the_saliency(lifted):
    image, _ = disc()
    seen = ask(lifted, "segmentation", image, ClassTarget(1))
    assert torch.equal(seen.map.values, ask(lifted, "saliency", image, ClassTarget(1)).map.values)


def test_each_round_is_a_piece_of_work_of_its_own(lifted):
    """So that a request can be stopped between any two; so are the marks before them."""
    seen = []
    ask(lifted, "segmentation", disc()[0], ClassTarget(1), iterations=7, background=0.5, seen=seen)
    assert sum(isinstance(step, Work) for step, _ in seen) == 8


def test_nothing_salient_is_no_object(lifted):
    """Class 0 looks at nothing: no pixel is above or below another."""
    image, _ = disc()
    assert not bool(ask(lifted, "segmentation", image, ClassTarget(0)).tensors["mask"].any())


def test_quantiles_in_the_wrong_order_are_refused(lifted):
    with pytest.raises(InvalidArgument, match="is above foreground"):
        mask(lifted, disc()[0], foreground=0.3, background=0.9)


def test_large_images_are_cut_smaller_and_masked_at_their_size(tmp_path):
    side = 600
    net = nn.Sequential(nn.AvgPool2d(side // 20), nn.Flatten(), nn.Linear(3 * 400, 2))
    weights = torch.full((2, 3, 20, 20), 0.001)
    weights[1, :, 7:13, 7:13] = 1.0
    net[2].weight.data = weights.flatten(1)
    image = torch.full((1, 3, side, side), 0.2, dtype=torch.float64)
    image[:, 0, 200:400, 200:400] = 0.9
    image += 0.02 * picture(side)
    found = mask(model(net.eval(), tmp_path, side=side), image.clamp(0, 1), background=0.5)
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[200:400, 200:400] = True
    assert found.shape == (side, side)
    assert float((found.bool() & inside).sum() / (found.bool() | inside).sum()) > 0.95


WITHOUT_OPENCV = """
import sys

sys.modules["cv2"] = None
from lightwell import NotApplicableError, Saliency, Segmentation
from lightwell.demo import SAMPLES
from lightwell.serving import bundled
from lightwell_server.local import Local
from lightwell_server.models.store import load_version
from lightwell_server.runtime.describe import described

star = SAMPLES / "star.png"
with Local(load_version(bundled() / "shapes" / "1", bundled())) as local:
    methods = described(local.model).methods
    print({method.method: method.reason for method in methods if not method.applies})
    local.explain(star, Saliency())
    try:
        local.explain(star, Segmentation())
    except NotApplicableError as error:
        print(error.message)
"""


def test_without_opencv_it_says_what_to_install_and_all_else_works():
    done = subprocess.run([sys.executable, "-c", WITHOUT_OPENCV], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, refused = done.stdout.splitlines()
    needed = "OpenCV is not installed at the server; install lightwell[segmentation] there"
    assert told == str({"segmentation": needed}) and needed in refused
