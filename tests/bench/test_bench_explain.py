"""The benchmark of explanations in small: that it compares the same things, and counts rightly. Times are not looked
at."""

import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import explain
from bench.common.nets import deployed
from bench.device.engine import Lone, pictures, together
from bench.device.peers import PEERS, fastest


@pytest.fixture(scope="module")
def net_and_model(tmp_path_factory):
    return deployed("resnet18", tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def lone(net_and_model):
    engine = Lone(net_and_model[1])
    yield engine
    engine.stop()


def test_a_lone_request_is_compared_with_a_peer_that_gives_the_same_map(lone, net_and_model):
    peer = replace(PEERS["smooth_grad"], given={"samples": 2, "noise": 0.1})
    (name, _, beside, _, alike), goal = explain.alone(lone, net_and_model[0], "smooth_grad", peer, (2,), rounds=1)
    assert name == "smooth_grad" and beside.startswith("Captum") and alike == "correlation 1.0000"
    assert (goal.bound, goal.at_least) == (1.1, True) and goal.figure > 0


def test_a_peer_that_gives_another_map_is_not_timed(lone, net_and_model):
    wrong = replace(PEERS["integrated_gradients"], made=lambda *args, **given: lambda: torch.rand(224, 224))
    with pytest.raises(ValueError, match="differ"):
        explain.alone(lone, net_and_model[0], "integrated_gradients", replace(wrong, given={"steps": 2}), (2,), 1)


def test_methods_that_share_their_steps_answer_as_each_alone(lone, net_and_model):
    pixels = pictures(2)
    for name in ("grad_cam", "eigen_cam"):
        for row, found in zip(pixels, together(net_and_model[1], name, pixels), strict=True):
            assert torch.allclose(found.map.values, lone.explained(name, row).map.values, atol=1e-4, rtol=1e-3)


def test_each_cam_and_guided_backprop_have_a_line(lone, net_and_model):
    rows = [*explain.cams(lone, net_and_model[0], shared=2, rounds=1), *explain.guided(lone, (1,), rounds=1)]
    assert [line[0] for line, goal in rows if goal is None] == ["eigen_cam, batch 2"]
    bounds = {goal.name.partition(",")[0]: goal.bound for _, goal in rows if goal is not None}
    assert bounds.pop("cam") == bounds.pop("guided_backprop") == 1.1 and set(bounds.values()) == {1.25}


def test_the_settings_in_which_a_call_is_fastest_compete():
    calls = {name: partial(time.sleep, seconds) for name, seconds in {"slow": 0.1, "quick": 0.0, "fair": 0.05}.items()}
    assert list(fastest(calls)) == ["quick", "fair"]
