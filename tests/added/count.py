"""Count: tells numbers one after the other, for administrators: a call that streams."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lightwell.v1 import models_pb2 as models
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.store import Model

RIGHT = "admin"


def count(request: models.CountRequest, model: Model) -> Iterator[models.CountResponse]:
    """So many numbers, at distances of so many seconds. Raises InvalidArgument for less than one."""
    if request.to < 1:
        raise InvalidArgument.at("to", f"{request.to} is less than 1")
    for number in range(1, request.to + 1):
        yield models.CountResponse(number=number, layers=len(model.facts.layers))
        time.sleep(request.seconds)
