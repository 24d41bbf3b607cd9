"""SmoothGrad: saliency, averaged over noisy copies of the image. Smilkov et al. 2017, arXiv:1706.03825."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator, Tensor

from lightwell_server.contract import (
    GRAD,
    Ask,
    Explaining,
    Facts,
    ModelInput,
    Needs,
    Rows,
    Share,
    Target,
    resolve_target,
)
from lightwell_server.errors import InvalidArgument
from lightwell_server.methods._math import Reduction, by_pixel, normal, parts

needs = Needs(planned="samples")


def smooth_grad(
    image: ModelInput,
    target: Target,
    facts: Facts,
    rng: Generator,
    *,
    samples: Annotated[int, Interval(ge=1, le=10_000)] = 25,
    noise: Share = 0.15,
    squared: bool = False,
    variance: bool = False,
    channels: Reduction = "max",
) -> Explaining:
    """A map [H, W] of `image` [1, 3, H, W] in [0, 1], both float32 or float64: the mean of the gradient's magnitude, in
    score per unit of colour; not negative. Raises InvalidArgument for `squared` together with `variance`.

    - `samples`: noisy copies of the image, 1 to 10,000.
    - `noise`: standard deviation of the noise, as a share of the image's range of values, 0 to 1.
    - `squared`: whether to average the square of the gradient. Hooker et al. 2018, arXiv:1806.10758.
    - `variance`: whether to take the variance of the gradient. Adebayo et al. 2018, arXiv:1810.03307.
    - `channels`: how three colours become one value. "none" also returns `attribution` [3, H, W].
    """
    if squared and variance:
        raise InvalidArgument.at("smooth_grad.variance", "is another mean than squared; choose one of them")
    target, _ = yield from resolve_target(target, image)
    deviation = noise * (image.max() - image.min())
    seed = int(torch.randint(2**62, (), generator=rng))

    def noisy(numbers: Tensor) -> Tensor:
        # Each sample's noise has a seed of its own, so that no step needs to keep it for the next.
        generators = (Generator().manual_seed(seed + n) for n in numbers.tolist())
        return torch.cat([image + deviation * normal(image, facts, own) for own in generators])

    total, squares = torch.zeros_like(image[0]), torch.zeros_like(image[0])
    for rows in parts(Rows(samples, noisy)):
        grads = (yield Ask(rows, target.score, at=target.at, want=GRAD)).grad
        total += (grads if variance else grads.abs()).sum(0)
        squares += grads.square().sum(0)
    mean, mean_square = total / samples, squares / samples
    if variance:
        return by_pixel((mean_square - mean.square()).clamp(min=0), channels, signed=False)
    return by_pixel(mean_square if squared else mean, channels, signed=False)
