"""Eigen-CAM: the places along the first principal component of the channels, whatever the target."""

import math

import numpy as np
import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import COLORS, TARGET, ask, close, picture


def test_by_hand(placed):
    """Less their means red is 0.5, -0.5, 0, 0 and green -0.25, 0.25, 0, 0: all lies along (2, -1) / sqrt(5), at
    sqrt(5) / 4 and the same below zero. The first place is the brighter one."""
    wanted = torch.tensor([[math.sqrt(5) / 4, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert close(ask(placed, "eigen_cam", COLORS).map.values, wanted)


def test_it_is_the_first_principal_component_whatever_the_target(residual, parts):
    places = parts[0].flatten(1).T
    _, _, axes = torch.linalg.svd(places - places.mean(0))
    component = ((places - places.mean(0)) @ axes[0]).view(16, 16)
    values = ask(residual, "eigen_cam", picture(), TARGET).map.values
    assert close(values, component.relu()) or close(values, (-component).relu())
    assert float((values * parts[0].mean(0)).sum()) > float((-values * parts[0].mean(0)).sum())
    assert torch.equal(values, ask(residual, "eigen_cam", picture(), ClassTarget(1)).map.values)


def test_at_a_layer_that_is_named_it_is_the_eigenvector_of_the_channels_covariance(residual, eager):
    """Its sign is the one that is high where the activations are strong, by their magnitude."""
    places = eager.stem(picture())[0].detach().flatten(1).T.numpy()
    assert (places < 0).any()
    _, axes = np.linalg.eigh(np.cov(places, rowvar=False))  # in the order of rising eigenvalues
    shares = (places - places.mean(0)) @ axes[:, -1]
    shares *= np.sign((shares * np.abs(places).mean(1)).sum())
    theirs = torch.from_numpy(shares.reshape(16, 16).clip(min=0))
    assert close(ask(residual, "eigen_cam", picture(), layer="stem").map.values, theirs)


def test_where_all_places_are_alike_nothing_is_shown(placed):
    assert not bool(ask(placed, "eigen_cam", torch.full_like(COLORS, 0.5)).map.values.any())


def test_of_activations_that_are_not_finite_no_component_is_made_up(residual):
    seen = ask(residual, "eigen_cam", torch.full((1, 3, 16, 16), torch.nan, dtype=torch.float64), TARGET)
    assert bool(seen.map.values.isnan().all())
