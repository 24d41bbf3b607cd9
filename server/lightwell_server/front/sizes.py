"""How large answers are, as such requests were answered before."""

from __future__ import annotations

from collections import OrderedDict

from lightwell_server.case import Price

UNKNOWN = 2**20
"""Bytes that an answer is taken to have where nothing like it was asked before."""
KINDS = 4096
"""Kinds of requests that are remembered."""


class Sizes:
    """The largest answer, in bytes, of each kind of request and of each family."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, int] = OrderedDict()

    def expected(self, price: Price) -> int:
        """Bytes that an answer to a request of that price may have."""
        return self._known.get(price.kind) or self._known.get(price.family) or UNKNOWN

    def learn(self, price: Price, size: int) -> None:
        """Takes note of an answer's bytes."""
        for alike in (price.kind, price.family):
            self._known[alike] = max(size, self._known.get(alike, 0))
            self._known.move_to_end(alike)
        while len(self._known) > KINDS:
            self._known.popitem(last=False)
