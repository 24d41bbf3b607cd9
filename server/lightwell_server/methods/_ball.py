"""The ball around an image in which an attack may move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from lightwell_server.contract import Facts
from lightwell_server.methods._math import movement, normal, uniform

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Ball:
    """All images in [0, 1] within `radius` of `center` [1, 3, H, W], the distance taken over its three colours. For a
    model of luminance starts and steps are the same for all colours."""

    center: Tensor
    facts: Facts
    norm: Norm
    radius: float

    def random(self, rng: Generator) -> Tensor:
        """A point of the ball: uniform for linf; for l2 a random direction and a uniform length."""
        if self.norm == "linf":
            offset = (2 * uniform(self.center, self.facts, rng) - 1) * self.radius
        else:
            direction = normal(self.center, self.facts, rng)
            offset = direction / direction.norm() * self.radius * torch.rand((), generator=rng).to(self.center)
        return self.project(self.center + offset)

    def steepest(self, grad: Tensor) -> Tensor:
        """The step of length one that follows a gradient best."""
        way = movement(grad, self.facts)
        return way.sign() if self.norm == "linf" else way / way.norm().clamp(min=1e-12)

    def project(self, x: Tensor) -> Tensor:
        """The point of the ball, within [0, 1], that is next to `x`."""
        offset = x - self.center
        if self.norm == "linf":
            return self._inside(offset.clamp(-self.radius, self.radius))
        return self._inside(offset * (self.radius / offset.norm().clamp(min=self.radius)))

    def rounded(self, x: Tensor) -> Tensor:
        """The 8-bit picture next to `x` on the centre's side, so that rounding never leaves the ball around an 8-bit
        centre."""
        down, up = (x * 255).floor(), (x * 255).ceil()
        whole = (x * 255).round()
        # What is a whole step but for rounding stays; everything else goes towards the centre.
        towards = torch.where(x > self.center, down, up)
        return torch.where((x * 255 - whole).abs() < 1e-4, whole, towards).clamp(0, 255) / 255

    def _inside(self, offset: Tensor) -> Tensor:
        return (self.center + offset).clamp(0, 1)
