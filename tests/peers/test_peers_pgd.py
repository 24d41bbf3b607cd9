"""PGD goes where torchattacks' and foolbox' go, step by step, and keeps its laws: inside the ball, inside [0, 1], and a
verdict that holds for the 8-bit picture."""

from itertools import product

import foolbox
import pytest
import torch
import torchattacks
from foolbox.criteria import Misclassification, TargetedMisclassification

from lightwell_server.contract import Frame
from tests.peers.files import MIXED, SMALL_FILES
from tests.peers.twins import agree

STEPS = 4
# Balls that the third step leaves, so that projecting matters.
BALLS = {"linf": {"epsilon": 4 / 255, "step": 2 / 255}, "l2": {"epsilon": 0.5, "step": 0.2}}
PLAIN = {"stop_early": False, "random_start": False, "steps": STEPS}
ROUNDING = 1e-12


def travelled(case, **given):
    """Every picture of an attack of ours, from the image to the result; and the result."""
    seen = []
    result = case.ask("pgd", seen=seen, **PLAIN, **given)
    return [*(step.image for step, _ in seen if isinstance(step, Frame)), result.image], result


def watched(case, attack):
    """Every picture of a peer's attack: it asks the twin once a step."""
    asked = []
    hook = case.twin.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].detach().clone()))
    final = attack()
    hook.remove()
    return [*asked, final]


def with_torchattacks(case, norm, epsilon, step, targeted):
    # Its L2 attack adds 1e-10 to the norm it divides by; we hold the norm above 1e-12.
    if norm == "linf":
        attack = torchattacks.PGD(case.twin, epsilon, step, STEPS, random_start=False)
    else:
        attack = torchattacks.PGDL2(case.twin, epsilon, step, STEPS, random_start=False, eps_for_division=0)
    if targeted is not None:
        attack.set_mode_targeted_by_function(lambda images, labels: torch.tensor([targeted]), quiet=True)
    label = torch.tensor([case.top])
    return lambda: attack(case.image, label)


def with_foolbox(case, norm, epsilon, step, targeted):
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=step, steps=STEPS, random_start=False)
    model = foolbox.PyTorchModel(case.twin, bounds=(0, 1), device="cpu")
    label = torch.tensor([case.top if targeted is None else targeted])
    criterion = Misclassification(label) if targeted is None else TargetedMisclassification(label)
    # `run` gives the last picture; calling the attack would also look at the verdict, one more question to the twin.
    return lambda: attack.run(model, case.image, criterion, epsilon=epsilon)


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("targeted", [None, 7])
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("peer", [with_torchattacks, with_foolbox])
def test_step_by_step(case, peer, norm, targeted):
    assert case.top != 7
    attack = peer(case, norm, **BALLS[norm], targeted=targeted)
    theirs = watched(case, attack)
    ours, _ = travelled(case, norm=norm, targeted=targeted, **BALLS[norm])
    assert len(ours) == len(theirs) == STEPS + 1
    assert theirs[-1].dtype == torch.float64
    for x, y in zip(ours, theirs, strict=True):
        agree(x, y)
    agree(ours[-1] - case.image, theirs[-1] - case.image)


@pytest.mark.parametrize("case", SMALL_FILES, indirect=True)
def test_one_step_of_the_radius_is_torchattacks_fgsm(case):
    theirs = torchattacks.FGSM(case.twin, eps=4 / 255)(case.image, torch.tensor([case.top]))
    ours = case.ask("pgd", epsilon=4 / 255, step=4 / 255, **{**PLAIN, "steps": 1})
    agree(ours.image - case.image, theirs - case.image)


@pytest.mark.parametrize("case", MIXED, indirect=True)
@pytest.mark.parametrize("targeted", [None, 7])
def test_margin_follows_autograd(case, targeted):
    label, sign = (case.top, 1) if targeted is None else (targeted, -1)
    x, (epsilon, step) = case.image, BALLS["linf"].values()
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        logits = case.twin(x)[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        (grad,) = torch.autograd.grad(sign * (others.max() - logits[label]), x)
        moved = x.detach() + step * grad.sign()
        x = moved.clamp(case.image - epsilon, case.image + epsilon).clamp(0, 1)
    ours, _ = travelled(case, loss="margin", targeted=targeted, **BALLS["linf"])
    agree(ours[-1] - case.image, x - case.image)


@pytest.mark.parametrize("case", ["squeezenet1_1-pt2"], indirect=True)
@pytest.mark.parametrize(
    ("norm", "epsilon", "random_start", "stop_early", "targeted"),
    [
        *product(["linf"], [0.4 / 255, 3 / 255, 10.5 / 255], [True, False], [True, False], [None, 7]),
        *product(["l2"], [0.02, 0.5, 4.0], [True, False], [True, False], [None, 7]),
    ],
)
def test_laws(case, norm, epsilon, random_start, stop_early, targeted):
    ours = case.ask(
        "pgd",
        norm=norm,
        epsilon=epsilon,
        step=epsilon / 3,
        steps=4,
        restarts=2,
        seed=1,
        random_start=random_start,
        stop_early=stop_early,
        targeted=targeted,
    )
    order = {"linf": float("inf"), "l2": 2}[norm]
    for x in (ours.image, ours.picture):
        assert x.min() >= 0 and x.max() <= 1
        assert torch.linalg.vector_norm(x - case.image, order) <= epsilon + ROUNDING
    assert torch.equal((ours.picture * 255).round() / 255, ours.picture)
    verdict = case.twin(ours.picture)
    agree(ours.final, verdict)
    top = int(verdict.argmax(1))
    assert ours.succeeded == (top != case.top if targeted is None else top == targeted)
    assert abs(ours.measures["l2"] - float((ours.picture - case.image).norm())) <= ROUNDING


@pytest.mark.parametrize("case", MIXED, indirect=True)
def test_verdicts_both_ways(case):
    # Less than half a grey level cannot outlive rounding; a wide ball always holds another class.
    small = case.ask("pgd", epsilon=0.4 / 255, step=0.2 / 255)
    assert torch.equal(small.picture, case.image) and not small.succeeded
    large = case.ask("pgd", epsilon=32 / 255, step=8 / 255)
    assert large.succeeded and int(case.twin(large.picture).argmax(1)) != case.top
    assert large.measures["queries"] < 11  # it stopped early
