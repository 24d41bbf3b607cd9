"""Predicts the cost of requests from similar requests before: device seconds, and bytes of the answer."""

from __future__ import annotations

import math
import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from lightwell.v1 import explain_pb2
from lightwell.v1 import types_pb2 as types
from lightwell_server.catalog import Method, Request, method_of
from lightwell_server.codec import pictures
from lightwell_server.engine.experience import Least
from lightwell_server.gateway.registry import ModelVersion
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.requests.admitted import GUESS, AdmittedRequest, Price

KEPT = 15
"""Measurements that are kept of each kind of request."""
KINDS = 4096
"""Kinds of requests that are kept."""
ANSWER = 2**20
"""Smallest predicted size of an answer in bytes, if nothing like it has run before."""
FLOAT = 4
"""Bytes of each number of an answer."""
PARTS = 64
"""List entries by which requests are distinguished. The limit is needed because requests are not validated yet."""
RISE = 0.05
"""Largest relative increase of a kind's minimum per request."""


@dataclass
class CostHistory:
    """The cost of one kind of request in device seconds per planned step: extrapolated to all steps (`whole`), and at
    `least`; and the bytes of the largest `answer`."""

    whole: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    least: Least = field(default_factory=lambda: Least(RISE))
    answer: int = 0
    count: int = 0

    @property
    def median(self) -> float:
        """The recent cost of such requests per step."""
        return statistics.median(self.whole)

    def learn(self, share: float, done: float, now: float) -> None:
        """Adds the measurement of a request that has `done` this share of its steps. The first is discarded, because it
        includes one-time work. Only requests that did all steps are evidence for the minimum; one that stopped early
        may lower it."""
        self.count += 1
        if self.count == 2:
            self.whole.clear()
            self.least = Least(RISE)
        self.whole.append(share / done)
        if done < 1:
            self.least.lower(share)
        else:
            self.least.learn(share, now)


class CostModel:
    """Predicts the cost of requests by measurements. Requests of more than `max_steps` have no price: they are refused
    for it."""

    def __init__(
        self,
        max_steps: int,
        clock: Callable[[], float] = time.monotonic,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        self._metrics = metrics or GatewayMetrics()
        self._max_steps, self._clock = max_steps, clock
        self._kinds: OrderedDict[int, CostHistory] = OrderedDict()

    def price(self, request: Request, entry: ModelVersion) -> Price:
        """The predicted cost of a request; does not read its pixels."""
        family, alike, steps = kind(request, entry)
        times = max(1, steps)
        if steps > self._max_steps:
            return Price(alike, family, steps)
        known, near = self._kinds.get(alike), self._kinds.get(family)
        guess = GUESS if near is None else near.median * times
        answer = (known.answer if known is not None else 0) or _largest(request, entry)
        if known is None:
            return Price(alike, family, steps, guess=guess, answer=answer)
        least = known.least.value(self._clock()) * times
        return Price(alike, family, steps, known.median * times, least, guess, answer)

    def cost(self, price: Price) -> float:
        """The current prediction for a request of that price."""
        known = self._kinds.get(price.kind) if price.steps <= self._max_steps else None
        return price.cost if known is None else known.median * max(1, price.steps)

    def answered(self, price: Price, size: int) -> None:
        """Records the bytes of an answer, after its cost was learned."""
        if (known := self._kinds.get(price.kind)) is not None:
            known.answer = max(known.answer, size)

    def learn(self, admitted: AdmittedRequest, seconds: float) -> None:
        """Records the device seconds of a request. The cost of one that stopped early is extrapolated to its planned
        steps."""
        planned, done = admitted.steps or 1, admitted.step or 1
        share = seconds / max(1, admitted.price.steps)
        for alike in (admitted.price.kind, admitted.price.family):
            self._kinds.setdefault(alike, CostHistory()).learn(share, done / planned, self._clock())
            self._kinds.move_to_end(alike)
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        if admitted.price.seconds is not None:
            self._metrics.predicted_seconds.labels(admitted.call.method).inc(admitted.price.seconds)
            if done == planned and seconds > 0:
                error = abs(admitted.price.seconds - seconds) / seconds
                self._metrics.prediction_error.labels(admitted.call.method).observe(error)


def kind(request: Request, entry: ModelVersion) -> tuple[int, int, int]:
    """Hashes of a request for predictions, and its planned steps (0: not given). The first hash is equal for a model
    and method. The second is equal for requests of equal cost per step: it adds the version, all other parameters, what
    the target reads, and the image size if the model's card does not fix it."""
    method = method_of(request)
    parameters = getattr(request, method.name)
    planned = method.needs.planned
    steps = getattr(parameters, planned) if planned is not None else 0
    own_size = _own_size(request, method)
    family = entry.name, method.name, steps > 0
    alike = (
        family,
        entry.version,
        _plain(parameters, planned),
        _place(request.target),
        request.output.HasField("predictions"),
        request.reproducible,
        _size(request.image) if own_size else None,
    )
    return hash(family), hash(alike), max(0, steps)


def _own_size(request: Request, method: Method) -> bool:
    """Whether the image keeps its own size instead of the one in the model's card."""
    return method.needs.image == "full" or (method.needs.image == "input" and request.image.fit == types.FIT_EXACT)


def _plain(message: Message, leave: str | None = None) -> Hashable:
    """The fields of a message except images and the field `leave`; of a list its length and its first entries."""
    found = []
    for field_, value in message.ListFields():
        if field_.name == leave or isinstance(value, types.Image):
            continue
        count, parts = (len(value), value[:PARTS]) if field_.is_repeated else (1, (value,))
        plain = tuple(_plain(part) if isinstance(part, Message) else part for part in parts)
        found.append((field_.name, count, plain))
    return tuple(found)


def _place(target: types.Target) -> Hashable:
    """Where a target is read. The index of the class or channel does not matter."""
    which = target.WhichOneof("target")
    return which, getattr(getattr(target, which), "layer", None) if which else None


def _largest(request: Request, entry: ModelVersion) -> int:
    """Predicted bytes of an answer if nothing like it has run before: those of an image's numbers, or of the layers
    that the method reads, if these are more."""
    method, described = method_of(request), entry.described
    if not isinstance(request, explain_pb2.ExplainRequest):
        return ANSWER
    parameters = getattr(request, method.name)
    named = {name for field_ in method.needs.layers if isinstance(name := getattr(parameters, field_), str) and name}
    own = next((each.default_layers for each in described.methods if each.method == method.name), ())
    wanted = named or set(own)
    read = (layer for layer in described.layers if wanted.intersection((layer.name, *layer.aliases)))
    usual = max(1, described.card.height * described.card.width)
    numbers = max(described.card.channels * usual, *(math.prod(layer.shape) for layer in read), 0)
    sides = _sides(request.image) if _own_size(request, method) else None
    return max(ANSWER, FLOAT * numbers * (usual if sides is None else math.prod(sides)) // usual)


def _sides(image: types.Image) -> Any:  # noqa: ANN401 - whatever holds two numbers
    """A picture's height and width by its header, or None if unknown. A tensor may have any number of dimensions."""
    return image.tensor.shape[1:3] if image.HasField("tensor") else pictures.header_size(image.encoded)


def _size(image: types.Image) -> Hashable:
    """A picture's size by its header, rounded: sides that differ by less than about a fifth may be equal."""
    sides = _sides(image)
    return tuple(round(4 * math.log2(max(1, side))) for side in sides) if sides else None
