"""The scheduler with simulated jobs: who goes first, what shares a step, how large a step is, who is dropped."""

import math
from dataclasses import dataclass

from lightwell_server.engine.scheduler import Scheduler, Ticket


@dataclass(eq=False)
class Simulated:
    name: str
    attained: float = 0.0
    deadline: float = math.inf
    gone: bool = False


def ticket(name="job", key="key", rows=1, **job):
    return Ticket(Simulated(name, **job), key, rows)


def run(scheduler, now, seconds_per_row=0.01):
    """One step; returns the names of the jobs in it and the time after it."""
    take = scheduler.take(now)
    if not take.slices:
        return [], now
    seconds = seconds_per_row * take.rows
    scheduler.charge(take, seconds, now + seconds)
    return [part.ticket.job.name for part in take.slices], now + seconds


def taught(key="key", rate=0.01, **limits):
    """A scheduler that knows what a row of `key` costs."""
    scheduler = Scheduler(**limits)
    scheduler.add(ticket("teacher", key), 0.0)
    run(scheduler, 0.0, rate)
    return scheduler


def test_an_idle_device_answers_at_once():
    scheduler = Scheduler()
    scheduler.add(ticket(), 5.0)
    assert scheduler.take(5.0).rows == 1


def test_a_short_job_waits_at_most_one_step_behind_twenty_long_ones():
    scheduler, now = Scheduler(max_rows=8), 0.0
    long = [ticket(f"long {i}", f"key {i}", rows=1000) for i in range(20)]
    for job in long:
        scheduler.add(job, now)
    for _ in range(60):
        _, now = run(scheduler, now, 0.05)
    _, after_step = run(scheduler, now, 0.05)
    scheduler.add(ticket("short", "other"), now + 0.01)  # it comes while that step runs
    names, _ = run(scheduler, after_step, 0.05)
    assert names == ["short"]


def test_nobody_starves_under_an_endless_stream_of_short_jobs():
    scheduler, now = Scheduler(), 0.0
    scheduler.add(ticket("long", "long", rows=3, attained=2.0), now)
    for i in range(2000):
        scheduler.add(ticket(f"short {i}", f"short {i}"), now)
        names, now = run(scheduler, now, 0.1)
        if "long" in names:
            return
    raise AssertionError("the long job never ran")


def test_equal_keys_share_a_step_across_jobs_and_others_do_not():
    scheduler = taught("a")
    for name, key in (("1", "a"), ("2", "b"), ("3", "a"), ("4", "a")):
        scheduler.add(ticket(name, key), 1.0)
    assert run(scheduler, 1.0)[0] == ["1", "3", "4"]
    assert run(scheduler, 1.0)[0] == ["2"]


def test_a_chunk_is_bounded_in_rows():
    scheduler = taught(rate=1e-6, max_rows=16)
    scheduler.add(ticket(rows=100), 1.0)
    assert scheduler.take(1.0).rows == 16


def test_a_chunk_is_bounded_in_seconds_that_were_learned_for_its_key():
    scheduler = taught("slow", rate=0.03, max_rows=64, max_seconds=0.1)
    scheduler.add(ticket(key="slow", rows=100), 1.0)
    assert scheduler.take(1.0).rows == 3
    scheduler.add(ticket(key="unknown", rows=100), 1.0)
    assert scheduler.take(1.0).rows == 1


def test_all_rows_of_a_ticket_are_taken_once_and_in_order():
    scheduler, now, rows = taught(), 1.0, []
    scheduler.add(ticket(rows=50), now)
    while (take := scheduler.take(now)).slices:
        rows += [row for part in take.slices for row in range(part.start, part.stop)]
        scheduler.charge(take, 0.01, now)
    assert rows == list(range(50))
    assert scheduler.waiting_rows == 0


def test_the_gone_and_the_late_are_dropped_before_they_cost_a_step():
    scheduler = taught()
    gone, late, good = ticket("gone", gone=True), ticket("late", deadline=2.0), ticket("good")
    for one in (gone, late, good):
        scheduler.add(one, 1.0)
    take = scheduler.take(3.0)
    assert [part.ticket for part in take.slices] == [good]
    assert {id(one) for one in take.dropped} == {id(gone), id(late)}


def test_who_cannot_be_answered_in_time_any_more_costs_no_step():
    scheduler = taught(rate=0.05)
    for _ in range(4):  # from now on its figures are relied on
        scheduler.add(ticket("teacher"), 0.0)
        run(scheduler, 0.0, 0.05)
    hopeless, chunked, good = ticket("1", deadline=3.04), ticket("2", rows=3, deadline=3.14), ticket("3", deadline=3.06)
    for one in (hopeless, chunked, good):
        scheduler.add(one, 1.0)
    take = scheduler.take(3.0)
    assert [part.ticket for part in take.slices] == [good]
    assert {id(one) for one in take.dropped} == {id(hopeless), id(chunked)}


def test_out_of_memory_halves_the_chunk_and_is_remembered_for_the_key():
    scheduler = taught(rate=1e-6, max_rows=16)
    scheduler.add(ticket(rows=40), 1.0)
    take = scheduler.take(1.0)
    assert take.rows == 16
    assert scheduler.shrink(take, 1.0)
    again = scheduler.take(1.0)
    assert (again.slices[0].start, again.rows) == (0, 8)
    scheduler.charge(again, 1e-6, 1.0)
    scheduler.add(ticket(rows=40), 1.0)
    assert scheduler.limit("key") == 8


def test_one_row_that_does_not_fit_is_not_put_back():
    scheduler = Scheduler()
    scheduler.add(ticket(), 0.0)
    assert not scheduler.shrink(scheduler.take(0.0), 0.0)
    assert not scheduler.take(0.0).slices


def test_what_was_taken_is_let_go():
    scheduler = taught("slow", rate=1.0)
    for i in range(50):
        scheduler.add(ticket(f"slow {i}", "slow"), 1.0)
        scheduler.add(Ticket(Simulated(f"alone {i}"), "slow", 1, alone=True), 1.0)
    while run(scheduler, 1.0)[0]:
        pass
    assert scheduler._line.first() is None and not scheduler._by_key


def test_a_ticket_goes_by_its_newest_rank():
    """Taken out of the key's line, its old place in the whole line is worth nothing any more."""
    scheduler = taught(rate=1.0, max_rows=2)
    scheduler.max_seconds = 10.0
    first, long = ticket("first", rows=1), ticket("long", rows=100)
    scheduler.add(first, 1.0)
    scheduler.add(long, 1.0)
    take = scheduler.take(1.0)
    assert [part.ticket for part in take.slices] == [first, long]
    scheduler.charge(take, 2.0, 1.0)  # the long one has used a second now, and is in line again
    other = ticket("other", key="other")
    other.job.attained = 0.5
    scheduler.add(other, 1.0)
    assert scheduler.take(1.0).slices[0].ticket is other


def test_seconds_are_shared_out_by_rows():
    scheduler = taught(rate=1e-3, max_rows=8)
    one, three = ticket("one", rows=1), ticket("three", rows=3)
    scheduler.add(one, 1.0)
    scheduler.add(three, 1.0)
    take = scheduler.take(1.0)
    scheduler.charge(take, 4.0, 5.0)
    assert (one.job.attained, three.job.attained) == (1.0, 3.0)


def test_a_fixed_chunk_shares_with_nobody_and_ignores_what_rows_cost():
    scheduler = taught(rate=1e-6, max_rows=64)
    fixed = Ticket(Simulated("fixed"), "key", 20, alone=True, chunk=8)
    scheduler.add(fixed, 1.0)
    scheduler.add(ticket("other"), 1.0)
    take = scheduler.take(1.0)
    assert [(part.ticket.job.name, part.stop) for part in take.slices] == [("fixed", 8)]


def test_the_first_step_of_a_key_says_nothing_of_its_cost():
    """It is slow: kernels are chosen, memory is taken. The second replaces it; it takes more to be refused for them."""
    scheduler = Scheduler(max_rows=1)
    seen = []
    for seconds in (30.0, 0.02, 0.04, 0.01):
        scheduler.add(ticket(), 0.0)
        scheduler.charge(scheduler.take(0.0), seconds, 0.0)
        seen.append((scheduler.seconds("key"), scheduler.bare_seconds("key")))
    assert seen[0] == (30.0, 0.0) and seen[1] == (0.02, 0.0)
    assert seen[3] == (0.02, 0.01)


def test_who_leaves_the_line_is_not_counted_any_more():
    scheduler = taught()
    first, second = ticket("first", rows=5000), ticket("second", rows=3)
    for one in (first, second):
        scheduler.add(one, 1.0)
    scheduler.leave(first)
    scheduler.leave(first)
    assert scheduler.waiting_rows == 3
    assert [part.ticket for part in scheduler.take(1.0).slices] == [second]
