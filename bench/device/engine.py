"""Jobs for the engine in this process: methods at work without gRPC and without messages."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightwell_server.catalog import catalog
from lightwell_server.contract import ClassTarget, Explanation, Heatmap, Part, Result, Step, Work
from lightwell_server.engine.engine import Engine
from lightwell_server.engine.run import Done, Event, Failed, Run
from lightwell_server.models.answer import answer
from lightwell_server.models.store import Model

T = TypeVar("T")
Method = Generator[Step, Any, Result]
TOP = ClassTarget()
"""The class with the highest score."""


def started(model: Model, name: str, pixels: Tensor, target: ClassTarget = TOP, **given: Any) -> Method:  # noqa: ANN401
    """A method's generator for a picture [3, H, W] of 8 bits."""
    method = catalog()[name]
    parameters = method.parameters(model.facts, given, model.id)
    return method.start(pixels[None].float() / 255, target, model.facts, 0, parameters)


def job(model: Model, name: str, pixels: Tensor, deliver: Callable[[Event], None], **given: Any) -> Run:  # noqa: ANN401
    """A method on a picture [3, H, W] of 8 bits, its target left unset if none is `given`."""
    steps = started(model, name, pixels, **given)
    return Run(method=name, steps=steps, models={None: model.graph}, deliver=deliver)


class Lone:
    """An engine that is asked one thing at a time. All that is compared runs on its thread: with a team of OpenMP's for
    each of several threads, all of them would wait for each other in a slower way."""

    def __init__(self, model: Model) -> None:
        self.model, self._worker = model, Engine(answer)

    def explained(self, name: str, pixels: Tensor, **given: Any) -> Explanation:  # noqa: ANN401
        """A method's answer for a picture [3, H, W] of 8 bits."""
        return self._done(lambda deliver: job(self.model, name, pixels, deliver, **given))

    def run(self, call: Callable[[], T]) -> T:
        """What a function returns that asks the engine nothing."""
        return self._done(lambda deliver: Run("run", _calling(call), {}, deliver))

    def stop(self) -> None:
        """Ends the engine."""
        self._worker.stop()

    def _done(self, make: Callable[[Callable[[Event], None]], Run]) -> Any:  # noqa: ANN401
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._worker.submit(make(events.put))
        event = events.get()
        if isinstance(event, Failed):
            raise event.error
        assert isinstance(event, Done)
        return event.result


def _calling(call: Callable[[], T]) -> Generator[Step, Any, T]:
    yield from ()
    with torch.enable_grad():
        return call()


def together(model: Model, name: str, rows: Tensor, **given: Any) -> list[Result]:  # noqa: ANN401
    """A method's answers for pictures [n, 3, H, W] of 8 bits. The Asks of all share each step, and between two steps
    each goes on by itself, as in an engine that has so many in flight."""
    methods = [started(model, name, pixels, **given) for pixels in rows]
    sent = [_sent(method, None) for method in methods]
    while not isinstance(sent[0], Result):
        replies = _replies(model, sent)
        sent = [_sent(method, reply) for method, reply in zip(methods, replies, strict=True)]
    return sent


@torch.no_grad()
def _sent(method: Method, reply: Any) -> Any:  # noqa: ANN401
    """The method's next step, or its result."""
    try:
        return method.send(reply)
    except StopIteration as end:
        return end.value


def _replies(model: Model, steps: list[Any]) -> list[Any]:
    if isinstance(steps[0], Work):
        return [step.function(*step.arguments) for step in steps]
    return answer(model.graph, [Part(ask, 0, ask.count) for ask in steps])


def pictures(count: int) -> Tensor:
    """Random pictures [count, 3, 224, 224] of 8 bits."""
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def received(event: Event) -> None:
    """The map of a finished saliency job, as an array."""
    if isinstance(event, Failed):
        raise event.error
    assert isinstance(event, Done) and isinstance(event.result.map, Heatmap)
    assert event.result.map.values.numpy().shape == (224, 224)
