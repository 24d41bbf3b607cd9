"""The scheduler with simulated jobs: who goes first, what shares a step, how large a step is, who is dropped."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightwell_server.engine import scheduler as schedulers
from lightwell_server.engine.experience import ENOUGH, HALVED, PROBE, RISE
from lightwell_server.engine.scheduler import AGEING, GRAIN, RIDE, Scheduler, Ticket


@dataclass(eq=False)
class Simulated:
    name: str
    caller: str = ""
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
    return [part.ticket.run.name for part in take.slices], now + seconds


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


def ran(scheduler, steps, cost, busy=False, rows=10**9):
    """So many steps of a long ticket, which cost what `cost` makes of their rows; how many rows each had."""
    long, seen = ticket("long", rows=rows), []
    scheduler.add(long, 0.0)
    for _ in range(steps):
        take = scheduler.take(0.0)
        seen.append(take.rows)
        scheduler.charge(take, cost(take.rows), 0.0, busy)
    scheduler.leave(long)
    return seen


def even(rows):
    return 0.05 * rows


def hopeless(scheduler, now=0.0):
    """Whether one that needs 200 seconds at 0.05 for a row is dropped where it has 100."""
    one = ticket("one", rows=4000, deadline=now + 100)
    scheduler.add(one, now)
    scheduler.leave(one)
    return scheduler.hopeless(one, now)


def test_who_cannot_be_answered_in_time_any_more_costs_no_step():
    scheduler = Scheduler()
    ran(scheduler, 20, even)  # from now on its figures are relied on
    late, chunked, good = ticket("1", deadline=3.04), ticket("2", rows=3, deadline=3.14), ticket("3", deadline=3.06)
    for one in (late, chunked, good):
        scheduler.add(one, 1.0)
    take = scheduler.take(3.0)
    assert [part.ticket for part in take.slices] == [good]
    assert {id(one) for one in take.dropped} == {id(late), id(chunked)}


def test_nobody_is_refused_for_a_few_slow_single_rows():
    scheduler = Scheduler()
    ran(scheduler, ENOUGH, lambda rows: 5.0, rows=ENOUGH)
    assert scheduler.seconds("key") == 5.0 and not hopeless(scheduler)
    for _ in range(50):  # nor for many that were asked for one by one
        ran(scheduler, 1, lambda rows: 5.0, rows=1)
    assert not hopeless(scheduler)


def test_nobody_is_refused_for_what_the_device_did_beside_the_work_of_others():
    scheduler = Scheduler()
    ran(scheduler, 50, even, busy=True)
    assert not hopeless(scheduler)
    ran(scheduler, 600, even)  # until more rows are tried once again: that they were too many said little
    assert hopeless(scheduler)


def test_full_steps_on_a_free_machine_are_evidence():
    scheduler = Scheduler()
    ran(scheduler, PROBE, even)
    assert not hopeless(scheduler), "how many rows a step may have is a guess as yet"
    ran(scheduler, ENOUGH, even)
    assert hopeless(scheduler)
    quick = Scheduler(max_rows=8)
    ran(quick, ENOUGH + 5, lambda rows: 0.001 * rows)
    assert quick.bare_seconds("key", 0.0) == pytest.approx(0.001), "steps have all the rows that they may have"


def test_the_least_comes_down_at_once_rises_slowly_and_fades():
    scheduler = Scheduler()
    ran(scheduler, 20, lambda rows: 0.1 * rows)
    assert hopeless(scheduler)
    ran(scheduler, 1, lambda rows: 0.01 * rows)
    assert scheduler.bare_seconds("key", 0.0) == pytest.approx(0.01)
    ran(scheduler, 5, even)
    assert 0.01 < scheduler.bare_seconds("key", 0.0) < 0.011
    ran(scheduler, 300, even)
    assert scheduler.bare_seconds("key", 0.0) == pytest.approx(0.05) and hopeless(scheduler)
    assert not hopeless(scheduler, now=2 * HALVED), "those who are refused for it bring no figure"


def test_single_rows_that_cost_as_much_as_many_become_many():
    for base in (0.08, 2.0):  # less than a step should take, and more
        scheduler = Scheduler()
        assert ran(scheduler, 60, lambda rows, base=base: base + 0.001 * rows)[-1] >= 15


def test_more_rows_are_tried_seldom_where_they_are_no_better():
    scheduler = Scheduler()
    seen = ran(scheduler, 500, even)
    assert set(seen[2:]) == {2, 4} and seen.count(4) == 2, "half a minute of steps lies between them"
    slow = Scheduler()
    assert ran(slow, 200, lambda rows: 1.0 * rows).count(1) == 199


def test_a_probe_has_no_more_rows_than_fit_into_memory():
    scheduler = Scheduler()
    for most in (1, 3):
        long = Ticket(Simulated("long"), "key", 10**9, most=most)
        scheduler.add(long, 0.0)
        for _ in range(20):
            take = scheduler.take(0.0)
            assert take.rows <= most
            scheduler.charge(take, even(take.rows), 0.0)
        scheduler.leave(long)


def test_a_few_rows_at_the_end_say_nothing_of_full_steps():
    """One row costs as much as many here."""
    scheduler = Scheduler()
    ran(scheduler, 100, lambda rows: 0.05 + 0.001 * rows)
    before = scheduler.limit("key")
    ran(scheduler, 1, lambda rows: 0.05 + 0.001 * rows, rows=1)
    assert scheduler.limit("key") == before > 20
    ran(scheduler, 1, lambda rows: 1.0, rows=1)  # but what takes as long as this does
    assert scheduler.limit("key") < before


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
    assert not scheduler._all and not scheduler._by_key


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
    other.run.attained = 0.5
    scheduler.add(other, 1.0)
    assert scheduler.take(1.0).slices[0].ticket is other


def test_seconds_are_shared_out_by_rows():
    scheduler = taught(rate=1e-3, max_rows=8)
    one, three = ticket("one", rows=1), ticket("three", rows=3)
    scheduler.add(one, 1.0)
    scheduler.add(three, 1.0)
    take = scheduler.take(1.0)
    scheduler.charge(take, 4.0, 5.0)
    assert (one.run.attained, three.run.attained) == (1.0, 3.0)


def test_a_fixed_chunk_shares_with_nobody_and_ignores_what_rows_cost():
    scheduler = taught(rate=1e-6, max_rows=64)
    fixed = Ticket(Simulated("fixed"), "key", 20, alone=True, chunk=8)
    scheduler.add(fixed, 1.0)
    scheduler.add(ticket("other"), 1.0)
    take = scheduler.take(1.0)
    assert [(part.ticket.run.name, part.stop) for part in take.slices] == [("fixed", 8)]


def test_the_first_step_of_a_key_says_nothing_of_its_cost():
    """It is slow: kernels are chosen, memory is taken. The second replaces it; it takes more to be refused for them."""
    scheduler = Scheduler(max_rows=1)
    seen = []
    for seconds in (30.0, 0.02, 0.04, 0.01, 0.05):
        scheduler.add(ticket(), 0.0)
        scheduler.charge(scheduler.take(0.0), seconds, 0.0)
        seen.append((scheduler.seconds("key"), scheduler.bare_seconds("key", 0.0)))
    assert seen[0] == (30.0, 0.0) and seen[1] == (0.02, 0.0)
    assert seen[3] == (0.02, 0.0) and seen[4][1] == pytest.approx(0.01 * (1 + RISE))


def test_who_leaves_the_line_is_not_counted_any_more():
    scheduler = taught()
    first, second = ticket("first", rows=5000), ticket("second", rows=3)
    for one in (first, second):
        scheduler.add(one, 1.0)
    scheduler.leave(first)
    scheduler.leave(first)
    assert scheduler.waiting_rows == 3
    assert [part.ticket for part in scheduler.take(1.0).slices] == [second]


class Callers:
    """Callers who ask one thing after the other, in a scheduler that never runs out: each has tickets of `rows` of its
    own key, one row of which costs `seconds`. What each has had is counted from now on."""

    def __init__(self, scheduler, seconds, rows=10**9, key=None):
        self.scheduler, self.seconds, self.rows, self.key = scheduler, seconds, rows, key
        self.now, self.had, self._numbers = 0.0, Counter(dict.fromkeys(seconds, 0.0)), itertools.count()

    def ask(self, caller):
        made = ticket(f"{caller} {next(self._numbers)}", self.key or caller, self.rows, caller=caller)
        self.scheduler.add(made, self.now)
        return made

    def step(self):
        """One step; who took part in it, the one who led it first. A ticket that is over is asked anew."""
        take = self.scheduler.take(self.now)
        cost = {part.ticket: self.seconds[part.ticket.run.caller] * (part.stop - part.start) for part in take.slices}
        seconds = sum(cost.values())
        self.now += seconds
        self.scheduler.charge(take, seconds, self.now)
        for part in take.slices:
            self.had[part.ticket.run.caller] += seconds * (part.stop - part.start) / take.rows
        for each in cost:
            if not each.left:
                self.ask(each.run.caller)
        return [part.ticket.run.caller for part in take.slices]


COSTS = st.floats(0.001, 1.0)


@given(COSTS, COSTS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_two_callers_who_always_wait_have_equal_shares_however_much_each_asks(cost_a, cost_b, jobs_a, jobs_b, rows):
    crowd = Callers(Scheduler(max_rows=1), {"a": cost_a, "b": cost_b}, rows)
    for caller in ["a"] * jobs_a + ["b"] * jobs_b:
        crowd.ask(caller)
    longest = max(cost_a, cost_b)  # no wait for a turn is longer than what the other one may be behind by
    for _ in range(200):
        crowd.step()
        assert abs(crowd.had["a"] - crowd.had["b"]) <= longest + GRAIN + AGEING * 2 * (longest + GRAIN) + 1e-9


@given(st.randoms(use_true_random=False))
def test_nobody_gets_far_ahead_by_having_rows_in_the_steps_of_others(chance):
    """Whatever shares its steps with whatever: of those who always wait nobody is behind by more than so much."""
    scheduler, now, had = taught("x", 0.01, max_rows=4), 0.0, Counter(dict.fromkeys("abcd", 0.0))
    for caller in "abcd":
        scheduler.add(ticket(caller, key=caller, rows=10**9, caller=caller), now)
    scheduler.add(ticket("flood", "x", 10**9, caller="a"), now)  # one asks much, the others little
    for _ in range(150):
        scheduler.add(ticket("one", "x", 1, caller=chance.choice("bcd")), now)
        take = scheduler.take(now)
        seconds = 0.01 * take.rows
        now += seconds
        scheduler.charge(take, seconds, now)
        for part in take.slices:
            had[part.ticket.run.caller] += 0.01 * (part.stop - part.start)
    assert max(had.values()) - min(had.values()) <= RIDE + 0.1


def test_a_newcomer_goes_next_beside_one_who_has_asked_two_hundred_things():
    crowd = Callers(Scheduler(max_rows=8), {"loud": 0.05, "quiet": 0.05}, rows=1, key="same")
    for _ in range(200):
        crowd.ask("loud")
    for _ in range(30):
        crowd.step()
    crowd.ask("quiet")
    assert crowd.step()[0] == "quiet"


def test_who_was_idle_has_saved_nothing_up_and_owes_nothing():
    crowd = Callers(Scheduler(max_rows=1), {"early": 0.1, "late": 0.1})
    early = crowd.ask("early")
    for _ in range(100):
        crowd.step()
    late = crowd.ask("late")
    first = [crowd.step()[0] for _ in range(10)]
    assert first[0] == "late" and Counter(first) == {"early": 5, "late": 5}, "ten seconds of the early one are past"
    crowd.scheduler.leave(early)
    for _ in range(100):
        crowd.step()
    crowd.scheduler.leave(late)
    crowd.ask("late")
    crowd.ask("early")
    first = [crowd.step()[0] for _ in range(10)]
    assert Counter(first) == {"early": 5, "late": 5}, "ten seconds of the late one are past"


def test_no_credit_is_lost_between_two_steps():
    """One whose job asks a row at a time waits for nothing while that is in a step: it is not idle for that."""
    crowd = Callers(Scheduler(max_rows=1), {"small": 0.01, "large": 0.1}, rows=1)
    crowd.ask("small")
    crowd.ask("large")
    led = Counter(crowd.step()[0] for _ in range(110))
    assert abs(led["small"] - 10 * led["large"]) <= 11


def test_no_caller_starves_under_an_endless_stream_of_newcomers():
    crowd = Callers(Scheduler(), {"old": 1.0} | {f"new {i}": 0.1 for i in range(2000)})
    crowd.ask("old")
    crowd.step()
    for i in range(2000):
        crowd.scheduler.add(ticket("one", f"new {i}", rows=1, caller=f"new {i}"), crowd.now)
        take = crowd.scheduler.take(crowd.now)
        crowd.now += 0.1
        crowd.scheduler.charge(take, 0.1, crowd.now)
        if take.slices[0].ticket.run.caller == "old":
            return
    raise AssertionError("the old one never ran")


def test_steps_are_shared_across_callers_unless_others_would_wait_long_for_that():
    scheduler = taught("same", rate=0.001, max_rows=8)
    scheduler.add(ticket("many", "same", rows=10**9, caller="many"), 1.0)

    def step(cost):
        take = scheduler.take(1.0)
        scheduler.charge(take, cost, 1.0)
        return [(part.ticket.run.name, part.stop - part.start) for part in take.slices]

    step(0.08)
    for _ in range(20):
        scheduler.add(ticket("one", "same", caller="one"), 1.0)
        assert step(0.08) == [("one", 1), ("many", 7)]
    scheduler.add(ticket("other", "other", rows=10**9, caller="other"), 1.0)
    scheduler.add(ticket("one", "same", caller="one"), 1.0)
    steps = [step(0.08) for _ in range(2)]
    assert [("one", 1)] in steps and [("other", 1)] in steps, "the one that has had the rest of many steps waits"


def test_idle_callers_are_forgotten(monkeypatch):
    monkeypatch.setattr(schedulers, "CALLERS", 10)
    scheduler = Scheduler()
    staying = ticket("staying", rows=10**9, caller="staying", attained=100.0)
    scheduler.add(staying, 0.0)
    for i in range(100):
        scheduler.add(ticket("passing", f"key {i}", caller=f"passing {i}"), 0.0)
        run(scheduler, 0.0, 0.01)
    assert len(scheduler._accounts) <= 11 and "staying" in scheduler._accounts
