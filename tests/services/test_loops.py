"""A loop works until it finds nothing, then waits: for a call, a time or a while. Outages are waited out."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import pytest

from kosmo_billing_daemon.errors import Invalid, Unavailable
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.loop import Loop
from tests.services.conftest import until


class Work:
    """Work that is there or not; ``runs`` counts how often somebody looked."""

    def __init__(self, amounts: list[int | Exception] | None = None) -> None:
        self.amounts = amounts or []
        self.runs = 0
        self.looked = asyncio.Condition()

    async def __call__(self) -> int:
        async with self.looked:
            self.runs += 1
            self.looked.notify_all()
        amount = self.amounts.pop(0) if self.amounts else 0
        if isinstance(amount, Exception):
            raise amount
        return amount

    async def wait_for(self, runs: int) -> None:
        async with asyncio.timeout(5), self.looked:
            await self.looked.wait_for(lambda: self.runs >= runs)


@asynccontextmanager
async def running(loop: Loop) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(loop.run())
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def waits(work: Work) -> None:
    """Wait until nobody looks any more."""
    async with asyncio.timeout(5):
        known = -1
        while known != work.runs:
            known = work.runs
            await asyncio.sleep(0.02)


async def state(loop: Loop, *, fails: bool) -> bool:
    return (loop.failing_since is not None) == fails


async def test_loop_works_until_it_finds_nothing_then_waits_to_be_woken() -> None:
    work = Work([1, 1, 1])
    loop = Loop("test", work, clock=utc_now)
    async with running(loop):
        await waits(work)
        assert work.runs == 4
        loop.wake()
        await work.wait_for(5)
        await waits(work)
        assert work.runs == 5


async def test_wake_during_work_is_not_lost() -> None:
    work = Work()
    loop: Loop

    async def wakes_itself_once() -> int:
        if work.runs == 0:
            loop.wake()
        return await work()

    loop = Loop("test", wakes_itself_once, clock=utc_now)
    async with running(loop):
        await work.wait_for(2)


async def test_loop_looks_again_when_something_is_due() -> None:
    work = Work()
    started = asyncio.get_running_loop().time()
    due: list[datetime] = [utc_now() + timedelta(milliseconds=100)]

    async def next_due() -> datetime | None:
        return due.pop() if due else None

    async with running(Loop("test", work, clock=utc_now, next_due=next_due)):
        await work.wait_for(2)
    assert asyncio.get_running_loop().time() - started >= 0.09


async def test_a_busy_loop_is_seldom_asked_when_more_is_due() -> None:
    work, asked = Work(), Work()

    async def next_due() -> datetime | None:
        await asked()
        return None

    loop = Loop("test", work, clock=utc_now, next_due=next_due)
    async with running(loop):
        for runs in range(1, 40):
            await work.wait_for(runs)
            await asyncio.sleep(0.001)  # the pace: the run has ended by then
            loop.wake()
        assert asked.runs < 20
        await asked.wait_for(asked.runs + 1)


async def test_loop_looks_again_after_its_poll() -> None:
    work = Work()
    async with running(Loop("test", work, clock=utc_now, poll=0.01)):
        await work.wait_for(4)


async def test_far_due_time_does_not_postpone_the_poll() -> None:
    work = Work()

    async def next_due() -> datetime | None:
        return utc_now() + timedelta(days=300)

    async with running(Loop("test", work, clock=utc_now, next_due=next_due, poll=0.01)):
        await work.wait_for(3)


async def test_outage_is_waited_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    work = Work([Unavailable("BTCPay is away"), Unavailable("BTCPay is away"), 1])
    loop = Loop("settlement", work, clock=utc_now)
    async with running(loop):
        await work.wait_for(1)
        await until(lambda: state(loop, fails=True), "it says that it waits")
        assert loop.last_error == "BTCPay is away"
        await work.wait_for(4)
        await until(lambda: state(loop, fails=False), "it says that it goes on")
        assert not loop.last_error
    said = [record.getMessage() for record in caplog.records]
    assert said == ["settlement waits: BTCPay is away", "settlement goes on"]


@pytest.mark.parametrize("bug", [ValueError("a bug"), Invalid("a refusal nobody expected")])
async def test_bug_ends_the_loop(bug: Exception) -> None:
    loop = Loop("test", Work([bug]), clock=utc_now)
    with pytest.raises(type(bug)):
        async with asyncio.timeout(5):
            await loop.run()


async def test_calls_of_a_busy_time_are_gathered_for_one_look() -> None:
    work = Work()
    loop = Loop("gathering", work, clock=utc_now, gather=0.1)
    async with running(loop):
        await work.wait_for(1)
        await waits(work)
        for _ in range(5):
            loop.wake()
            await asyncio.sleep(0.005)
        await work.wait_for(2)
        await waits(work)
    assert work.runs == 2


async def test_gathering_does_not_hold_up_what_is_due() -> None:
    """It gathers for longer than this test may last."""
    work = Work()
    due = [utc_now() + timedelta(seconds=0.1)]

    async def next_due() -> datetime | None:
        return due.pop() if due else None

    loop = Loop("gathering", work, clock=utc_now, next_due=next_due, gather=60.0)
    async with running(loop):
        await work.wait_for(1)
        loop.wake()
        await work.wait_for(2)


class Side:
    """Work of which each run lasts until it is let go; ``under_way`` are the runs that have begun."""

    def __init__(self) -> None:
        self.under_way: list[asyncio.Future[int]] = []
        self.cancelled = 0

    async def __call__(self) -> int:
        ends: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.under_way.append(ends)
        try:
            return await ends
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def begun(self, number: int) -> None:
        async def reached() -> bool:
            return len(self.under_way) >= number

        await until(reached, f"{number} runs have begun")


async def test_calls_begin_runs_side_by_side_up_to_a_number_and_the_rest_when_one_ends() -> None:
    side = Side()
    loop = Loop("test", side, clock=utc_now, parallel=2)
    async with running(loop):
        for begun in (1, 2):
            await side.begun(begun)
            loop.wake()
        await asyncio.sleep(0)
        assert len(side.under_way) == 2
        began = loop.step_began
        assert began is not None
        side.under_way[1].set_result(0)
        await side.begun(3)
        assert loop.step_began == began, "the watchdog sees the run that takes longest"
    assert side.cancelled == 2, "no run outlasts its loop"
    assert loop.step_began is None


async def test_an_outage_met_by_one_run_lets_the_others_end_first() -> None:
    side = Side()
    loop = Loop("test", side, clock=utc_now, parallel=2)
    async with running(loop):
        await side.begun(1)
        loop.wake()
        await side.begun(2)
        side.under_way[0].set_exception(Unavailable("away"))
        await asyncio.sleep(0)
        side.under_way[1].set_result(1)
        await side.begun(3)
        assert loop.failing_since is not None
        assert side.cancelled == 0
        side.under_way[2].set_result(0)
        await until(lambda: state(loop, fails=False), "it goes on")


async def test_a_bug_beside_an_outage_ends_the_loop() -> None:
    side = Side()
    loop = Loop("test", side, clock=utc_now, parallel=2)
    task = asyncio.create_task(loop.run())
    await side.begun(1)
    loop.wake()
    await side.begun(2)
    side.under_way[0].set_exception(Unavailable("away"))
    side.under_way[1].set_exception(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        async with asyncio.timeout(5):
            await task
