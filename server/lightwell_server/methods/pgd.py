"""Projected gradient descent: steps up the loss, each projected onto a ball around the image. Madry et al. 2017,
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
    """Why it does not apply to a model, or None. It needs scores of at least two classes."""
    if facts.classes < 2:
        return "the model has no classes"
    return "the model's values are no scores of classes" if facts.activation == "none" else None


def defaults(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The radius `epsilon` and the length `step`, with pixels in [0, 1]: 8/255 and 2/255 for linf, 2 and a quarter of
    `epsilon` for l2."""
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
    """An adversarial example for `image` [1, 3, H, W] in [0, 1]. All tensors are float32 or float64. Raises
    InvalidArgument if the target is not a class, or the model has no class `targeted`.

    - `epsilon`: radius of the ball, in units of the norm with pixels in [0, 1], above 0.
    - `norm`: the norm over all pixels and colours.
    - `step`: length of a step, in the same unit, above 0.
    - `steps`: steps of each restart, 1 to 10,000.
    - `random_start`: whether a restart begins at a random point of the ball, else at the image.
    - `restarts`: attempts, 1 to 100. The first that succeeds is returned, else the last.
    - `targeted`: the class to reach, at least 0. With None the attack leaves the class of `target`.
    - `loss`: what is raised, as in `Goal`.
    - `stop_early`: whether to end as soon as the 8-bit picture fools the model.

    The result has the attacked image [1, 3, H, W], its 8-bit form in the same ball, the verdict on that form, and its
    scores [1, classes]. The tensor `perturbation` [3, H, W] is the image minus the original. The pictures `difference`
    and `difference_x10` [1, 3, H, W] show the change of the 8-bit form, once and ten times, where 0.5 is no change. The
    measures `linf` and `l2` are its norms. `queries` is the number of images that the model has answered for.
    """
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
    """The aim of an attack: away from class `leave`, or to class `targeted`, both numbered from 0. `loss` is
    "cross_entropy", or "margin", the largest other score minus the class's own (Carlini and Wagner 2016,
    arXiv:1608.04644)."""

    def __init__(self, leave: int, targeted: int | None, loss: str) -> None:
        self.leave, self.targeted, self.loss = leave, targeted, loss

    def score(self, logits: Tensor, index: Tensor) -> Tensor:
        """The loss [n] of `logits` [n, classes], floating, which the attack raises. `index` [n], int64, is not used."""
        label = self.leave if self.targeted is None else self.targeted
        if self.loss == "cross_entropy":
            loss = F.cross_entropy(logits, torch.full_like(logits[:, 0], label, dtype=torch.long), reduction="none")
        else:
            own = F.one_hot(torch.tensor(label, device=logits.device), logits.shape[1]).bool()
            loss = logits.masked_fill(own, -torch.inf).amax(1) - logits[:, label]
        return loss if self.targeted is None else -loss

    def reached(self, logits: Tensor) -> bool:
        """Whether the scores `logits` [1, classes], floating, reach the aim."""
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
