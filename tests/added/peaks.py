"""The pixels of the largest gradients: a method whose result is points. Made for tests, 2026."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval

from lightwell_server.contract import GRAD, Ask, Explaining, Explanation, ModelInput, Target, View


def peaks(image: ModelInput, target: Target, *, count: Annotated[int, Interval(ge=1, le=100)] = 5) -> Explaining:
    """`places` [count, 2] of `image` [1, 3, H, W], both float32: rows and columns; `count` from 1 to 100."""
    grad = (yield Ask(image, target.score, at=target.at, want=GRAD)).grad[0]
    found = grad.abs().amax(0).flatten().topk(count).indices
    places = torch.stack((found // image.shape[3], found % image.shape[3]), 1).float()
    return Explanation(tensors={"places": places}, views={"places": View("points")})
