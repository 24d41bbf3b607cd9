"""The line of requests in front of the workers: who is called up, to which worker, and when. No worker runs."""

import asyncio
import contextlib

import pytest

from lightwell.v1 import admin_pb2 as admin
from lightwell.v1 import models_pb2
from lightwell_server.config import Settings
from lightwell_server.errors import Aborted, Unavailable
from lightwell_server.pool import dispatcher as lines
from lightwell_server.pool import pool as pools
from lightwell_server.pool.pool import Pool
from lightwell_server.pool.slot import End
from lightwell_server.requests.admitted import AdmittedRequest, Price
from lightwell_server.requests.call import Call

KEY = ("net", "1")
SHORT, LONG = 0.05, 60.0


class Queue:
    """A pool whose workers are there in name only, and the requests that ask it."""

    def __init__(self, tmp_path, workers, max_rows=2):
        self.pool = Pool(Settings(repository=tmp_path, workers=workers, max_rows=max_rows))
        self.dispatcher, self.slots = self.pool._dispatcher, self.pool._slots
        self.asked, self._numbers = {}, 0
        for slot in self.slots:
            slot.models, slot.state = {KEY}, admin.WORKER_STATE_READY

    def admitted(self, cost=SHORT, caller=None, **more):
        """One of a caller of its own, if none is named."""
        self._numbers += 1
        call = Call(str(self._numbers), "", f"caller {self._numbers}" if caller is None else caller)
        return AdmittedRequest(call, self._numbers, price=Price(seconds=cost), began=0.0, **more)

    async def ask(self, admitted, key=KEY):
        self.asked[admitted] = asyncio.create_task(self.dispatcher.acquire(admitted, frozenset({key})))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return admitted

    async def acquired(self, cost=SHORT):
        admitted = await self.ask(self.admitted(cost))
        assert admitted.worker is not None
        return admitted

    async def over(self, admitted):
        self.slots[admitted.worker].leave(admitted, answered=True)
        self.dispatcher.assign()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def dispatcher(test):
    """Runs a test with a line of its own."""

    def run(tmp_path, **given):
        async def story():
            made = Queue(tmp_path, **{"workers": 2, **given})
            try:
                await test(made)
            finally:
                for task in made.asked.values():
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*made.asked.values(), return_exceptions=True)
                await made.pool.stop()

        asyncio.run(story())

    return lambda tmp_path: run(tmp_path)


@dispatcher
async def test_each_goes_to_the_worker_that_will_be_free_first(made):
    long = await made.acquired(0.9)
    shorts = [await made.acquired() for _ in range(3)]
    assert {admitted.worker for admitted in shorts} == {1 - long.worker}


@dispatcher
async def test_a_worker_has_so_many_and_the_shortest_that_waits_is_called_up_first(made):
    taken = [await made.acquired() for _ in range(8)]
    slow, quick = await made.ask(made.admitted(0.9)), await made.ask(made.admitted(0.01))
    assert (slow.worker, quick.worker) == (None, None)
    await made.over(taken[0])
    assert quick.worker is not None and slow.worker is None
    await made.over(taken[1])
    assert slow.worker is not None


@dispatcher
async def test_long_ones_leave_half_of_the_room(made):
    long = [await made.ask(made.admitted(LONG)) for _ in range(6)]
    assert [admitted.worker is not None for admitted in long] == [True] * 4 + [False] * 2
    assert [(await made.acquired()).worker is not None for _ in range(4)] == [True] * 4


@dispatcher
async def test_one_caller_leaves_a_quarter_of_the_room_to_others(made):
    loud = [await made.ask(made.admitted(caller="loud")) for _ in range(8)]
    assert [admitted.worker is not None for admitted in loud] == [True] * 6 + [False] * 2
    others = [await made.ask(made.admitted(caller=name)) for name in ("quiet", "quiet", "third")]
    assert [admitted.worker is not None for admitted in others] == [True, True, False]
    await made.over(loud[0])
    assert others[2].worker is not None and loud[6].worker is None, "its turn comes before those of who has much"
    await made.over(loud[1])
    assert loud[6].worker is not None


@dispatcher
async def test_the_caller_with_least_at_work_is_called_up_first(made):
    taken = [await made.ask(made.admitted(0.5 if i < 5 else 0.9, caller="ab"[i < 5])) for i in range(8)]
    assert None not in {admitted.worker for admitted in taken}
    slow, quick = await made.ask(made.admitted(0.9, caller="b")), await made.ask(made.admitted(0.01, caller="a"))
    third = await made.ask(made.admitted(0.8, caller="b"))
    await made.over(taken[0])  # a has 2.7 seconds at work, b 2.0
    assert (slow.worker, quick.worker) == (None, None) and third.worker is not None
    await made.over(taken[1])  # 2.7 and 2.3
    assert slow.worker is not None and quick.worker is None
    await made.over(taken[2])  # nobody else waits
    assert quick.worker is not None


@dispatcher
async def test_a_suspect_has_a_worker_for_itself(made):
    suspect = await made.ask(made.admitted(suspect=True))
    others = [await made.ask(made.admitted()) for _ in range(5)]
    assert {admitted.worker for admitted in others} == {1 - suspect.worker, None}
    await made.over(suspect)
    assert None not in {admitted.worker for admitted in others}


@dispatcher
async def test_a_suspect_waits_for_no_longer_than_the_work_that_is_begun(made):
    """Others come all the time, and would keep all workers busy."""
    taken = [await made.acquired() for _ in range(2)]
    suspect = await made.ask(made.admitted(suspect=True))
    assert suspect.worker is None
    for _ in range(3):
        await made.ask(made.admitted())
    await made.over(taken[0])
    await made.over(taken[1])
    assert suspect.worker is not None, "one worker was kept free for it"


@dispatcher
async def test_suspects_run_one_after_the_other(made):
    made.slots[1].models = set()
    made.slots[1].state = admin.WORKER_STATE_STARTING
    first, second = [await made.ask(made.admitted(suspect=True)) for _ in range(2)]
    assert first.worker == 0 and second.worker is None
    await made.over(first)
    assert second.worker == 0


@dispatcher
async def test_who_is_cancelled_leaves_no_trace(made):
    taken = [await made.acquired() for _ in range(8)]
    waiting, next_one = await made.ask(made.admitted()), await made.ask(made.admitted())
    made.asked[waiting].cancel()
    await made.over(taken[0])  # at the same moment
    assert next_one.worker is not None and waiting.worker is None and not made.dispatcher._queue
    assert sum(len(slot.requests) for slot in made.slots) == 8
    called = made.asked[await made.ask(made.admitted())]
    made.slots[0].leave(next(iter(made.slots[0].requests.values())), answered=True)
    made.dispatcher.assign()  # it is called up, and given up before it hears of that
    called.cancel()
    await asyncio.gather(called, return_exceptions=True)
    assert sum(len(slot.requests) for slot in made.slots) == 7 and not made.dispatcher._queue


@dispatcher
async def test_a_version_that_no_worker_has_is_told_and_one_that_is_being_loaded_is_waited_for(made):
    admitted = await made.ask(made.admitted(), key=("net", "2"))
    with pytest.raises(Unavailable, match="net@2 cannot be asked now: no worker could load it"):
        await made.asked[admitted]
    made.slots[0].state = admin.WORKER_STATE_STARTING
    admitted = await made.ask(made.admitted(), key=("net", "2"))
    assert not made.asked[admitted].done()
    made.slots[0].models.add(("net", "2"))
    made.dispatcher.assign()
    assert (await made.asked[admitted]).number == 0


@dispatcher
async def test_those_in_line_are_told_when_no_worker_comes_back(made):
    for slot in made.slots:
        slot.models, slot.state = set(), admin.WORKER_STATE_ENDED
    admitted = await made.ask(made.admitted())
    made.dispatcher._answering -= lines.GONE
    telling = asyncio.create_task(made.dispatcher.fail_waiting())
    with pytest.raises(Unavailable, match="no worker answers") as caught:
        await made.asked[admitted]
    telling.cancel()
    assert caught.value.reason == "NO_WORKER" and not made.dispatcher._queue


@dispatcher
async def test_a_query_waits_for_no_worker_that_does_not_come_back(made):
    for slot in made.slots:
        slot.models, slot.state = set(), admin.WORKER_STATE_ENDED
    made.dispatcher.assign()
    made.dispatcher._answering -= lines.GONE
    request = models_pb2.GetFiltersRequest(model=KEY[0], version=KEY[1])
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match="no worker answers") as caught:
            await anext(made.pool.query("GetFilters", request, made.admitted()))
    assert caught.value.reason == "NO_WORKER"


def end(at_work, held=None, crashed=True):
    return End("signal SIGSEGV", crashed, frozenset(at_work if held is None else held), frozenset(at_work))


def judged(*ends):
    """A request, numbered 1, after workers have ended under it."""
    admitted = AdmittedRequest(Call("1", ""), 1)
    for each in ends:
        pools._judge(admitted, each)
    return admitted


def test_who_was_not_at_work_is_innocent():
    assert not judged(end({2}, held={1, 2}), end({2}, held={1, 2}, crashed=False)).suspect


def test_who_was_there_at_two_crashes_is_suspect():
    assert judged(end({2}, held={1, 2}), end({2}, held={1, 2})).suspect


def test_who_was_at_work_is_suspect_and_in_company_no_more_than_that():
    admitted = judged(*[end({1, 2})] * 5)
    assert admitted.suspect and admitted.crashes == 0


def test_two_ends_of_a_worker_that_ran_it_alone_are_enough():
    assert judged(end({1, 2}), end({1})).suspect
    with pytest.raises(Aborted, match=r"ended the worker that ran it alone, 2 times \(signal SIGSEGV\)") as caught:
        judged(end({1, 2}), end({1}), end({1}))
    assert caught.value.reason == "POISONED"
    with pytest.raises(Aborted):
        judged(end({1}), end({1}))


def test_a_kill_from_outside_is_taken_for_an_accident_the_first_time():
    assert not judged(end({1}, crashed=False)).suspect
    assert judged(end({1}, crashed=False), end({1}, crashed=False)).suspect
    with pytest.raises(Aborted):
        judged(*[end({1}, crashed=False)] * 4)
