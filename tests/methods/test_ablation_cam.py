"""Ablation-CAM: each channel is weighted by the share of the score that is lost without it."""

import pytest
import torch

from lightwell_server.contract import ClassTarget
from tests.methods.asking import CLASS, COLORS, TARGET, ask, close, model, picture, refused
from tests.nets import Residual, seeded

RED, GREEN = COLORS[0, 0], COLORS[0, 1]


def ablated(net, image, layer, readout):
    """The map by running the network anew for each channel of a module, which a hook sets to zero."""
    module, kept = net.get_submodule(layer), []

    def run(channel):
        def cut(module, inputs, output):
            kept.append(output.detach()[0])
            output = output.clone()
            output[:, channel] = 0
            return output

        hook = module.register_forward_hook(cut)
        value = readout(net(image))[0, CLASS].detach()
        hook.remove()
        return value

    clean = run([])
    weights = torch.stack([(clean - run(k)) / clean.abs() for k in range(len(kept[0]))])
    return (weights.view(-1, 1, 1) * kept[0]).sum(0).relu()


@pytest.mark.parametrize("target", [None, ClassTarget(1)])
def test_by_hand(placed, target):
    """Of the score, 0.5, red gives 2 and green -1.5. Without red class 0 would be the higher one: an unset target stays
    what it was for the whole image."""
    seen = ask(placed, "ablation_cam", COLORS, target)
    assert close(seen.map.values, (4 * RED - 3 * GREEN).relu())


def test_the_channel_of_the_largest_mean_is_tried_first_of_equal_ones_the_first(placed):
    """A brighter green takes 2.5 from the score of class 1, which is then -0.5, and gives it to class 0."""
    assert close(ask(placed, "ablation_cam", COLORS, ClassTarget(1), max_channels=1).map.values, 4 * RED)
    brighter = COLORS + torch.tensor([0.0, 0.25, 0.0]).view(1, 3, 1, 1)
    assert close(ask(placed, "ablation_cam", brighter, ClassTarget(0), max_channels=1).map.values, 5 * brighter[0, 1])


def test_it_takes_each_channel_away(residual, eager, parts):
    activations, _, score = parts
    weights = []
    for k in range(8):
        without = activations.clone()
        without[k] = 0
        weights.append((score - eager.head(without.mean((1, 2)))[CLASS].detach()) / score.abs())
    wanted = (torch.stack(weights).view(8, 1, 1) * activations).sum(0).relu()
    assert close(ask(residual, "ablation_cam", picture(), TARGET).map.values, wanted)


def test_a_layer_that_is_named_is_the_one_that_is_cut(residual, eager):
    theirs = ablated(eager, picture(), "stem", lambda scores: scores)
    assert close(ask(residual, "ablation_cam", picture(), TARGET, layer="stem").map.values, theirs)


def test_of_a_probability_it_is_the_share_of_the_probability(residual, eager):
    theirs = ablated(eager, picture(), "stem", lambda scores: scores.softmax(1))
    ours = ask(residual, "ablation_cam", picture(), ClassTarget(CLASS, "probability"), layer="stem")
    assert close(ours.map.values, theirs)


def test_the_map_of_a_negative_score_is_not_turned_round(tmp_path):
    """Where every channel speaks for the class, and the bias alone makes its score negative."""
    net = seeded(Residual)
    net.head.weight.data.abs_()
    net.head.bias.data.fill_(-100.0)
    lifted = model(net, tmp_path)
    assert float(ask(lifted, "ablation_cam", picture(), TARGET).map.values.max()) > 0


def test_no_channel_at_all_is_refused(residual):
    assert refused(residual, "ablation_cam", max_channels=0) == ["ablation_cam.max_channels"]
