"""The ball around an image in which an attack may move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from lightwell_server.contract import Facts
from lightwell_server.methods._math import movement, normal, uniform

Norm = Literal["linf", "l2"]
"""The norm of a perturbation over all pixels and colours: the largest magnitude for linf, the Euclidean length for
l2."""


@dataclass(frozen=True)
class Ball:
    """All images in [0, 1] whose distance from `center` [1, 3, H, W], floating, is at most `radius`, above 0. The
    distance is the `norm` over all pixels and colours, in units of pixel values. If `facts` say that the model takes
    luminance, random points and steps are the same for all colours."""

    center: Tensor
    facts: Facts
    norm: Norm
    radius: float

    def random(self, rng: Generator) -> Tensor:
        """A random point [1, 3, H, W] of the ball, floating: uniform for linf; in a random direction and at a uniform
        distance for l2. It is clamped to [0, 1]."""
        if self.norm == "linf":
            offset = (2 * uniform(self.center, self.facts, rng) - 1) * self.radius
        else:
            direction = normal(self.center, self.facts, rng)
            offset = direction / direction.norm() * self.radius * torch.rand((), generator=rng).to(self.center)
        return self.project(self.center + offset)

    def steepest(self, grad: Tensor) -> Tensor:
        """The step [1, 3, H, W] of norm 1 that follows the gradient `grad` [1, 3, H, W], floating, best. It is 0 where
        the gradient is 0."""
        way = movement(grad, self.facts)
        return way.sign() if self.norm == "linf" else way / way.norm().clamp(min=1e-12)

    def project(self, x: Tensor) -> Tensor:
        """The image `x` [1, 3, H, W], floating, projected onto the ball and clamped to [0, 1]."""
        offset = x - self.center
        if self.norm == "linf":
            return self._inside(offset.clamp(-self.radius, self.radius))
        return self._inside(offset * (self.radius / offset.norm().clamp(min=self.radius)))

    def rounded(self, x: Tensor) -> Tensor:
        """The image `x` [1, 3, H, W], floating, rounded to multiples of 1/255 in [0, 1]. Values are rounded towards
        `center`, so that the result stays in the ball around an 8-bit image."""
        down, up = (x * 255).floor(), (x * 255).ceil()
        whole = (x * 255).round()
        # What is a whole step but for rounding stays; everything else goes towards the centre.
        towards = torch.where(x > self.center, down, up)
        return torch.where((x * 255 - whole).abs() < 1e-4, whole, towards).clamp(0, 255) / 255

    def _inside(self, offset: Tensor) -> Tensor:
        return (self.center + offset).clamp(0, 1)
