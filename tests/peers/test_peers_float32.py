"""In float32 a saliency map of ours, through a folded graph, is no further from the truth than captum's of the eager
network."""

import torch
from captum.attr import Saliency

from tests.peers.twins import picture


def relative(values, truth):
    return float((values.double() - truth).norm() / truth.norm())


def captums(twin, image, label):
    return Saliency(twin).attribute(image.clone().requires_grad_(), target=label).amax(1)[0]


def test_distance_to_float64(make):
    single, double = make("resnet18", "scripted", torch.float32), make("resnet18", "scripted")
    ours, theirs = [], []
    for seed in range(5):
        image = picture(seed)
        label = int(double.twin(image).argmax(1))
        truth = captums(double.twin, image, label)
        theirs.append(relative(captums(single.twin, image.float(), label), truth))
        ours.append(relative(single.ask("saliency", image=image.float()).map.values, truth))
    # Medians: where rounding flips a ReLU in one of the two, that picture alone is off by up to a few percent.
    assert (torch.tensor(ours) / torch.tensor(theirs)).median() <= 1.2
    assert torch.tensor(ours).median() <= 2e-2
