"""The benchmark of strangers, in small: that nobody else fails, and that it counts rightly. Times are not looked at."""

import sys

import pytest

from bench import hostile
from bench.callers.crowd import Ended
from bench.callers.frames import Stranger, message
from bench.strangers import shared
from bench.strangers.halves import EXPLAIN
from bench.strangers.shared import MIB, Part, failed
from tests.serving import bundled, served

pytestmark = pytest.mark.server


@pytest.mark.parametrize("name", ["health", "unread", "parts", "names", "resets", "signals"])
def test_the_part_in_small(name, monkeypatch):
    monkeypatch.setattr(shared, "ALONE", 1.0)
    part = hostile.PARTS[name](3.0)
    assert part.name == name and part.beside.sent and not failed(part.beside), part.notes
    assert all(goal.met for goal in part.goals if goal.form == "d"), [goal.line() for goal in part.goals]


def test_the_command_prints_a_line_for_each_part_and_goal(monkeypatch, capsys):
    found = Part("collector", Ended({"answered": [0.1]}, 0, 1), Ended({"answered": [0.2], "late": [1.0]}, 0, 1), ())
    monkeypatch.setattr(hostile, "PARTS", {"collector": lambda seconds: found})
    monkeypatch.setattr(sys, "argv", ["bench.hostile", "--only", "collector"])
    assert hostile.main() == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("collector  "))
    assert line.split() == ["collector", "2", "1", "100.0", "ms", "200.0", "ms", "2.00"]


def test_a_stranger_keeps_to_the_windows_that_it_is_given():
    with served(bundled(), "--max-receive-seconds", "1") as server, Stranger(server.address) as stranger:
        stream = stranger.ask(EXPLAIN)
        assert stranger.send(stream, message(bytes(2 * MIB), 3 * MIB)) == 2 * MIB + 5
        stranger.reset(stranger.ask(EXPLAIN))
        assert not stranger.closed.is_set()
