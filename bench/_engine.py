"""Jobs for the engine in this process: methods at work without gRPC and without messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightwell_server.ask import Heatmap
from lightwell_server.catalog import catalog
from lightwell_server.engine.job import Done, Event, Failed, Job
from lightwell_server.models.store import Model
from lightwell_server.target import ClassTarget


def job(model: Model, name: str, pixels: Tensor, deliver: Callable[[Event], None], **given: Any) -> Job:  # noqa: ANN401
    """A method on a picture [3, H, W] of 8 bits, its target left unset."""
    method = catalog()[name]
    parameters = method.parameters(model.facts, given, model.id)
    steps = method.start(pixels[None].float() / 255, ClassTarget(), model.facts, 0, parameters)
    return Job(method=name, steps=steps, models={None: model.graph}, deliver=deliver)


def pictures(count: int) -> Tensor:
    """Random pictures [count, 3, 224, 224] of 8 bits."""
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def received(event: Event) -> None:
    """The map of a finished saliency job, as an array."""
    if isinstance(event, Failed):
        raise event.error
    assert isinstance(event, Done) and isinstance(event.result.map, Heatmap)
    assert event.result.map.values.numpy().shape == (224, 224)
