"""Guided Grad-CAM is the product of its two parts, the coarse one enlarged as maps are."""

import numpy as np
import pytest
import torch

from lightwell.pictures.heatmap import bilinear
from lightwell_server.contract import ClassTarget
from tests.methods.asking import ask, close, model, picture
from tests.nets import FORMS, Residual, seeded


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_product_of_its_parts(tmp_path, form):
    lifted, image, target = model(seeded(Residual), tmp_path, form), picture(), ClassTarget(2)
    fine = ask(lifted, "guided_backprop", image, target, channels="none").tensors["gradient"]
    coarse = ask(lifted, "grad_cam", image, target).map.values
    seen = ask(lifted, "guided_grad_cam", image, target, channels="none")
    assert close(seen.tensors["attribution"], fine * coarse) and seen.map.signed


def test_the_coarse_part_is_enlarged_as_maps_are(tmp_path):
    lifted, image, target = model(seeded(Residual), tmp_path), picture(24), ClassTarget(2)
    coarse = ask(lifted, "grad_cam", image, target, layer="stem").map.values
    fine = ask(lifted, "guided_backprop", image, target, channels="sum").map.values
    seen = ask(lifted, "guided_grad_cam", image, target, layer="stem", channels="sum").map.values
    enlarged = bilinear(coarse.numpy().astype(np.float32), 24, 24)
    assert float((seen - fine * torch.from_numpy(enlarged)).abs().max()) < 1e-6 * float(seen.abs().max())
