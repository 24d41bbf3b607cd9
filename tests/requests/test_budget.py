"""Shares of something scarce: who has used least is given first, and nothing is lost."""

import asyncio
import random

import pytest

from lightwell_server.errors import Overloaded
from lightwell_server.requests.budget import Budget


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def held(budget, order, caller, amount, go, **more):
    """Holds an amount until `go` is set, and notes when it was given."""

    async def hold():
        async with budget.holding(caller, amount, **more):
            order.append((caller, amount))
            await go.wait()

    return asyncio.ensure_future(hold())


def test_what_does_not_fit_waits_for_what_is_given_back():
    async def check():
        budget, order, first, rest = Budget(10, "the pictures"), [], asyncio.Event(), asyncio.Event()
        tasks = [held(budget, order, "a", 6, first), held(budget, order, "b", 6, rest)]
        await turns()
        assert order == [("a", 6)] and budget.held == 6
        first.set()
        await turns()
        assert order == [("a", 6), ("b", 6)] and budget.held == 6
        rest.set()
        await asyncio.gather(*tasks)
        assert budget.held == 0

    asyncio.run(check())


def test_one_caller_has_its_share_and_what_it_holds_first_may_be_all():
    async def check():
        budget, order, go = Budget(10, "the pictures", share=0.5), [], asyncio.Event()
        tasks = [held(budget, order, "a", 3, go) for _ in range(3)]
        tasks.append(held(budget, order, "b", 3, go))
        await turns()
        assert order == [("a", 3), ("b", 3)]
        go.set()
        await asyncio.gather(*tasks)
        assert len(order) == 4
        async with budget.holding("a", 1000):
            assert budget.held == 10

    asyncio.run(check())


def test_who_has_been_charged_least_is_next_and_a_newcomer_waits_for_one_at_most():
    async def check():
        budget, order, goes = Budget(1, "the pictures", share=1), [], [asyncio.Event() for _ in range(5)]
        tasks = [held(budget, order, "flood", 1, go, charge=10) for go in goes[:3]]
        await turns()
        tasks += [held(budget, order, "late", 1, go, charge=1) for go in goes[3:]]
        for go in goes[:2] + goes[3:] + goes[2:3]:
            await turns()
            go.set()
        await asyncio.gather(*tasks)
        assert [caller for caller, _ in order] == ["flood", "flood", "late", "late", "flood"]

    asyncio.run(check())


def test_who_waits_too_long_is_told_to_come_back():
    async def check():
        budget = Budget(1, "the answers")
        async with budget.holding("a", 1):
            with pytest.raises(Overloaded, match="the answers of the requests in progress fill the room"):
                async with budget.holding("b", 1, patience=0):
                    pass
        async with budget.holding("b", 1, patience=0):
            assert budget.held == 1

    asyncio.run(check())


def test_who_leaves_the_line_lets_smaller_ones_pass():
    async def check():
        budget, order, go = Budget(10, "the pictures"), [], asyncio.Event()
        tasks = [held(budget, order, caller, amount, go) for caller, amount in (("a", 6), ("b", 9), ("c", 2))]
        await turns()
        assert order == [("a", 6)], "the small one must not keep the large one waiting for ever"
        tasks[1].cancel()
        await turns()
        assert order == [("a", 6), ("c", 2)]
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(check())


def test_a_hold_that_grows_keeps_others_out_until_it_is_over():
    async def check():
        budget, order, go = Budget(10, "the answers"), [], asyncio.Event()
        async with budget.holding("a", 1) as hold:
            hold.resize(25)
            task = held(budget, order, "b", 1, go)
            await turns()
            assert not order and budget.held == 25
        await turns()
        assert order and budget.held == 1
        go.set()
        await task

    asyncio.run(check())


def test_what_outgrows_its_room_takes_it_from_its_own_caller_alone():
    async def check():
        budget, order, go = Budget(10, "the answers"), [], asyncio.Event()
        async with budget.holding("a", 1) as hold:
            hold.outgrow(25)
            tasks = [held(budget, order, caller, 2, go) for caller in "ab"]
            await turns()
            assert order == [("b", 2)] and budget.held == 3
        await turns()
        assert order == [("b", 2), ("a", 2)]
        go.set()
        await asyncio.gather(*tasks)
        assert budget.held == 0

    asyncio.run(check())


def test_after_any_course_of_things_nothing_is_held():
    async def check():
        budget, chance = Budget(100, "the pictures"), random.Random(7)

        async def one():
            async with budget.holding(chance.choice("abc"), chance.randint(1, 140), patience=None) as hold:
                await turns(chance.randint(0, 3))
                chance.choice([hold.resize, hold.outgrow])(chance.randint(0, 60))
                await turns(chance.randint(0, 3))
                if chance.random() < 0.1:
                    raise ValueError("it went wrong")

        tasks = [asyncio.ensure_future(one()) for _ in range(300)]
        await turns(2)
        for task in chance.sample(tasks, 60):
            task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert budget.held == 0 and not budget._line and not budget._charged
        assert any(isinstance(end, ValueError) for end in ends) and ends.count(None) > 150

    asyncio.run(check())
