"""The cheap parts of the benchmark of serving, in small: that they run, and count rightly. Times are not looked at."""

import sys

import pytest
from torch import nn

from bench import serving
from bench.device.long_queue import LongQueue
from lightwell.serving import bundled
from lightwell_server.models.store import load_version

pytestmark = pytest.mark.server


def test_the_command_prints_a_table_and_a_line_for_each_goal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.serving", "--part", "queue"])
    missed = serving.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" jobs")[0] for line in lines if " jobs in line  " in line] == ["10", "100", "1,000", "10,000"]
    (goal,) = (line for line in lines if line.startswith("10,000 jobs in line: / 10 jobs"))
    assert goal.endswith("MISSED" if missed else "met")


def test_each_step_of_the_line_takes_one_row_and_no_job_is_lost():
    line = LongQueue(20)
    before = line.scheduler.waiting_rows
    line.run(7)
    assert line.scheduler.waiting_rows == before - 7
    waiting = set()
    while (take := line.scheduler.take(0.0)).slices:
        waiting.add(take.slices[0].ticket.run)
    assert len(waiting) == 20


def test_every_call_that_ends_early_is_watched():
    model = load_version(bundled() / "shapes" / "1", bundled())
    small = serving.Bench(nn.Identity(), model, bundled(), calls=0)
    rows = list(serving.ending(small, calls=2))
    assert [line[0].split()[0] for line, _ in rows] == ["cancelled", "cancelled", "expired", "expired"]
    assert all(line[4].endswith("of 2 calls") for line, _ in rows)
    assert [(goal.bound, goal.at_least) for _, goal in rows] == [(1, False), (2, True)] * 2
    assert all(goal.figure >= 0 for _, goal in rows)
