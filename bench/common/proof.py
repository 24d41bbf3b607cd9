"""What a proof says: how many requests were sent, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.common.table import Goal


@dataclass(frozen=True)
class Counts:
    """Requests. `retried` are answers that took more than one attempt, of a worker or of the SDK; `refused` those that
    were told a reason that the proof expects; `lost` all that were neither answered nor refused."""

    sent: int
    answered: int
    retried: int
    refused: int
    lost: int

    def line(self) -> tuple[str, ...]:
        """As columns of a table."""
        return tuple(f"{n:,}" for n in (self.sent, self.answered, self.retried, self.refused, self.lost))


@dataclass(frozen=True)
class Proof:
    """One proof: its figures, what they shall be, and what else there is to say."""

    name: str
    counts: Counts
    goals: list[Goal]
    notes: list[str] = field(default_factory=list)


def none(name: str, count: int) -> Goal:
    """The goal that there are none of something."""
    return Goal(name, count, 0, False, "d")
