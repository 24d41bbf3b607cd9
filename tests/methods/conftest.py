"""Models that the tests of several methods ask, and the eager networks that they were made from."""

import pytest
import torch

from tests.methods.asking import CLASS, Placed, model, picture
from tests.nets import Residual, seeded


@pytest.fixture(scope="session")
def eager():
    """The network behind `residual`, in double precision."""
    return seeded(Residual).double()


@pytest.fixture(scope="session")
def residual(tmp_path_factory):
    return model(seeded(Residual), tmp_path_factory.mktemp("residual"))


@pytest.fixture(scope="session")
def parts(eager):
    """Activations of the last layer of `residual` for `picture()`, the score's gradient there, and the score."""
    x = eager.relu(eager.norm(eager.stem(picture())))
    activations = (eager.conv(x) + x).relu().detach().requires_grad_()
    score = eager.head(activations.mean((2, 3)))[0, CLASS]
    (grads,) = torch.autograd.grad(score, activations)
    return activations.detach()[0], grads[0], score.detach()


@pytest.fixture(scope="session")
def placed(tmp_path_factory):
    """`Placed`, whose maps of `COLORS` can be computed by hand."""
    return model(Placed(), tmp_path_factory.mktemp("placed"), side=2)
