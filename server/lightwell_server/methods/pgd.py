"""Projected gradient descent: steps up the loss, each thrown back into a ball around the image. Madry et al. 2017,
arXiv:1706.06083."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Generator, Tensor

from lightwell_server.contract import (
    GRAD,
    OUT,
    Ask,
    Asking,
    ClassTarget,
    Facts,
    Frame,
    ModelInput,
    Needs,
    Synthesis,
    Synthesizing,
    Target,
    resolve_target,
)
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._ball import Ball, Norm

needs = Needs(planned="steps", early="stop_early")


def applies(facts: Facts) -> str | None:
    """Only classifiers have a class to leave."""
    if facts.classes < 2:
        return "the model has no classes"
    return "the model's values are no scores of classes" if facts.activation == "none" else None


def defaults(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """A radius and a step for the norm: 8/255 and 2/255 for LINF, 2 and a quarter of the radius for L2."""
    if given.get("norm", "linf") == "linf":
        return {"epsilon": 8 / 255, "step": 2 / 255}
    return {"epsilon": 2.0, "step": given.get("epsilon", 2.0) / 4}


def pgd(
    image: ModelInput,
    target: Target,
    facts: Facts,
    rng: Generator,
    *,
    epsilon: Annotated[float, Gt(0)],
    norm: Norm = "linf",
    step: Annotated[float, Gt(0)],
    steps: Annotated[int, Interval(ge=1, le=10_000)] = 10,
    random_start: bool = True,
    restarts: Annotated[int, Interval(ge=1, le=100)] = 1,
    targeted: Annotated[int, Ge(0)] | None = None,
    loss: Literal["cross_entropy", "margin"] = "cross_entropy",
    stop_early: bool = True,
) -> Synthesizing:
    """The attacked image, its 8-bit form's verdict, and the distances of both."""
    if not isinstance(target, ClassTarget):
        raise InvalidArgument.at("target", "pgd leaves a class; name one by index or label, or leave the target unset")
    if targeted is not None and targeted >= facts.classes:
        raise InvalidArgument.at("pgd.targeted", f"{targeted} is not a class; the model has {facts.classes}")
    settled, _ = yield from resolve_target(target, image)
    assert settled.index is not None  # that is what settling means
    ball = Ball(image, facts, norm, epsilon)
    goal = Goal(settled.index, targeted, loss)
    total, queries = steps * restarts, 1
    for restart in range(restarts):
        x = ball.random(rng) if random_start else image
        for k in range(steps):
            answer = yield Ask(x, goal.score, want=GRAD | OUT)
            queries += 1
            if stop_early and goal.reached(answer.out):
                final, queries = (yield from _rounded(ball, x)), queries + 1
                if goal.reached(final):
                    return _synthesis(ball, x, final, goal, queries)
            yield Frame(restart * steps + k + 1, total, float(goal.score(answer.out, torch.zeros(1))), x)
            x = ball.project(x + step * ball.steepest(answer.grad))
        final, queries = (yield from _rounded(ball, x)), queries + 1
        if goal.reached(final):
            break
    return _synthesis(ball, x, final, goal, queries)


class Goal:
    """What the attack is after: away from a class, or to the class `targeted`."""

    def __init__(self, leave: int, targeted: int | None, loss: str) -> None:
        self.leave, self.targeted, self.loss = leave, targeted, loss

    def score(self, logits: Tensor, index: Tensor) -> Tensor:
        """The loss [n] that is raised."""
        label = self.leave if self.targeted is None else self.targeted
        if self.loss == "cross_entropy":
            loss = F.cross_entropy(logits, torch.full_like(logits[:, 0], label, dtype=torch.long), reduction="none")
        else:
            own = F.one_hot(torch.tensor(label, device=logits.device), logits.shape[1]).bool()
            loss = logits.masked_fill(own, -torch.inf).amax(1) - logits[:, label]
        return loss if self.targeted is None else -loss

    def reached(self, logits: Tensor) -> bool:
        """Whether the model [1, classes] is fooled."""
        top = int(logits.argmax(1))
        return top != self.leave if self.targeted is None else top == self.targeted


def _rounded(ball: Ball, x: Tensor) -> Asking:
    """The scores of the 8-bit picture."""
    return (yield Ask(ball.rounded(x), want=OUT)).out


def _synthesis(ball: Ball, x: Tensor, final: Tensor, goal: Goal, queries: int) -> Synthesis:
    picture = ball.rounded(x)
    difference = picture - ball.center
    return Synthesis(
        image=x,
        picture=picture,
        succeeded=goal.reached(final),
        final=final,
        tensors={"perturbation": (x - ball.center)[0]},
        pictures={"difference": 0.5 + difference, "difference_x10": 0.5 + 10 * difference},
        measures={"linf": float(difference.abs().max()), "l2": float(difference.norm()), "queries": queries},
    )
