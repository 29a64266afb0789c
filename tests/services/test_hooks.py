"""Events reach operators' endpoints: each at least once with one id, in order, whatever others do."""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.hooks import HookActions
from kosmo_billing_daemon.errors import Conflict, Invalid
from kosmo_billing_daemon.hooks.client import HookClient
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.hooks import HookSenders
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.topups import MOST_CHARACTERS, TopUps
from kosmo_billing_daemon.store import events
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.hooks import ANSWERS_KEPT, Hook
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import WITH_PACK
from tests.support.endpoint import Endpoint, answer, endpoint, hang
from tests.support.world import until

BY = OperatorAction("tester", "a test")
PUBLIC = "https://billing.kosmoconnect.example.o"  # a host of 30 letters
EVERYTHING = ("subscription.*", "quota.*", "invoice.*", "hook.*")


@dataclass
class Desk:
    """A database, hooks, and senders of daemons that lead one after the other."""

    pool: Pool
    clock: HandClock
    stack: AsyncExitStack
    senders: list[tuple[HookSenders, asyncio.Task[None]]] = field(default_factory=list)

    @property
    def actions(self) -> HookActions:
        return HookActions(pool=self.pool, clock=self.clock)

    def lead(self, within: float = 10.0) -> None:
        links = RenewalLinks(pool=self.pool, clock=self.clock, key=b"key", public_url=PUBLIC)
        topups = TopUps(links=links, catalogue=WITH_PACK)
        client = HookClient(within=within)
        senders = HookSenders(pool=self.pool, clock=self.clock, client=client, topups=topups)
        self.senders.append((senders, asyncio.create_task(senders.run())))

    async def resign(self) -> None:
        _, task = self.senders.pop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def wake(self) -> None:
        for senders, _ in self.senders:
            senders.wake()

    async def endpoint(self) -> Endpoint:
        return await self.stack.enter_async_context(endpoint())

    async def add(self, target: Endpoint, *patterns: str, texts: str | None = None) -> Hook:
        hook = await self.actions.add(
            target.url, patterns or EVERYTHING, texts=texts, allow_private=True, by=BY
        )
        self.wake()
        return hook

    async def happen(self, count: int = 1, event_type: str = "quota.warning", **facts: Any) -> None:
        """Write events as the daemon does, in one transaction."""
        happened = [
            Event(type=event_type, user_id=uuid4(), data={"place": place} | facts, occurred_at=self.clock())
            for place in range(count)
        ]
        async with self.pool.transaction() as connection:
            await combine(connection, [events.append_statement(happened)])
        self.wake()

    async def value(self, query: str, *values: object) -> Any:
        async with self.pool.connection() as connection:
            return await connection.fetchval(query, *values)

    async def until_drained(self) -> None:
        """Wait until nothing is queued for any hook."""

        async def drained() -> bool:
            return not await self.value("SELECT count(*) FROM hook_deliveries")

        await until(drained, "the queue is empty")

    async def until_tried(self, target: Endpoint, count: int) -> None:
        """Let time pass, as it would for the next try, until an endpoint has received so many requests."""

        def arrived() -> bool:
            self.clock.move(seconds=30)
            self.wake()
            return len(target.received) >= count

        await until(arrived, lambda: f"{count} requests, are {len(target.received)}")


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with Pool(Database(url=database_url)) as pool, AsyncExitStack() as stack:
        desk = Desk(pool, HandClock(utc_now()), stack)
        yield desk
        while desk.senders:
            await desk.resign()


def received(target: Endpoint, count: int) -> Callable[[], bool]:
    return lambda: len(target.received) >= count


async def test_endpoints_that_hang_fail_leave_or_dawdle_delay_no_other(desk: Desk) -> None:
    healthy, hanging, failing, gone, slow = [await desk.endpoint() for _ in range(5)]

    async def dawdle(_: Any) -> Any:
        await asyncio.sleep(0.05)
        return await answer(204)

    hanging.reply, slow.reply = hang, dawdle
    failing.reply, gone.reply = (lambda _: answer(500, "broken")), (lambda _: answer(410))
    secret = (await desk.add(healthy, "quota.*")).secret
    for target in (hanging, failing, gone, slow):
        await desk.add(target)
    desk.lead()
    written: list[float] = []
    for _ in range(100):
        written.append(time.monotonic())
        await desk.happen(3)
    await until(received(healthy, 300), "the healthy endpoint received everything")
    delays = [
        one.at - at for one, at in zip(healthy.received, [at for at in written for _ in "abc"], strict=False)
    ]
    assert statistics.quantiles(delays, n=100)[98] < 1, delays
    places = [json.loads(one.body)["data"]["place"] for one in healthy.received[:300]]
    assert places == [0, 1, 2] * 100
    healthy.verify(secret)
    assert len(set(healthy.ids)) == len(healthy.ids)
    assert len(hanging.received) == len(gone.received) == 1
    assert len(set(failing.ids)) == 1, "order is kept: nothing overtakes what is not accepted"
    await until(received(slow, 10), "the slow endpoint is served at its own speed")
    states = {one.hook.url: one for one in await desk.actions.load_all()}
    assert states[gone.url].hook.off_because == "it wants no more events: 410 Gone"
    assert states[failing.url].hook.failures >= 1
    assert states[failing.url].answer == "500 Internal Server Error: broken"
    assert states[healthy.url].hook.failures == 0


async def test_an_endpoint_that_was_broken_for_an_hour_gets_everything_in_order_with_the_same_ids(
    desk: Desk,
) -> None:
    target = await desk.endpoint()
    target.reply = lambda _: answer(503, **{"Retry-After": "60"})
    await desk.add(target)
    desk.lead()
    began = desk.clock()
    await desk.happen(5)
    await until(received(target, 1), "a first try")
    while desk.clock() - began < timedelta(hours=1):
        await desk.until_tried(target, len(target.received) + 1)
    tries = len(target.received)
    assert len(set(target.ids)) == 1
    target.reply = lambda _: answer(200)
    await desk.until_tried(target, tries + 5)
    delivered = target.ids[tries:]
    assert delivered[0] == target.ids[0]
    assert len(set(delivered)) == len(delivered) == 5

    async def recovered() -> bool:
        return (await desk.actions.load_all())[0].hook.failing_since is None

    await until(recovered, "the failure is forgotten")


async def test_after_a_day_a_hook_is_switched_off_and_a_replay_sends_what_it_missed(desk: Desk) -> None:
    target, other = await desk.endpoint(), await desk.endpoint()
    target.reply = lambda _: answer(500)
    hook = await desk.add(target, "quota.*")
    await desk.add(other, "hook.off")
    desk.lead()
    await desk.happen(2)
    await until(received(target, 1), "a first try")
    desk.clock.move(hours=24)
    desk.wake()

    def heard() -> bool:
        desk.wake()  # as PostgreSQL's notification does
        return bool(other.received)

    await until(heard, "other endpoints hear that it is off")
    told = json.loads(other.received[0].body)
    assert told["type"] == "hook.off"
    assert "subject" not in told
    assert told["data"]["hook"] == hook.id
    tries = len(target.received)
    desk.clock.move(seconds=1)
    await desk.happen(3)
    (listed, _) = await desk.actions.load_all()
    assert "24 hours" in str(listed.hook.off_because)
    assert listed.waiting == 2, "what happened meanwhile is not queued for it"
    target.reply = lambda _: answer(200)
    assert await desk.actions.replay(hook.id, None, BY) == 3
    desk.wake()
    await until(received(target, tries + 5), "what waited and what was missed")
    assert len(set(target.ids[tries:])) == 5
    await desk.until_drained()
    with pytest.raises(Conflict):
        await desk.actions.replay(hook.id, None, BY)
    assert await desk.actions.replay(hook.id, desk.clock() - timedelta(days=2), BY) == 5
    desk.wake()
    await until(received(target, tries + 10), "a replay repeats")
    assert set(target.ids[tries + 5 :]) == set(target.ids[tries : tries + 5]), "with the same ids"


async def test_a_new_leader_continues_where_the_last_one_stopped(desk: Desk) -> None:
    target = await desk.endpoint()

    async def take_a_while(_: Any) -> Any:
        await asyncio.sleep(0.01)
        return await answer(200)

    target.reply = take_a_while
    await desk.add(target)
    await desk.happen(60)
    for count in (10, 25, 40):
        desk.lead()
        await until(received(target, count), "some are sent")
        await desk.resign()
    desk.lead()
    await until(lambda: len(set(target.ids)) == 60, "none is lost")
    assert len(target.ids) <= 63, "an orderly end repeats no more than what was under way"
    firsts = list(dict.fromkeys(target.ids))
    assert firsts == sorted(firsts, key=lambda each: int(each.rpartition("/")[2].partition("-")[0]))


async def test_nothing_is_sent_after_a_hook_was_removed(desk: Desk) -> None:
    target, marker = await desk.endpoint(), await desk.endpoint()
    target.reply = hang
    hook = await desk.add(target)
    await desk.add(marker, "invoice.created")
    desk.lead()
    await desk.happen(20)
    await until(received(target, 1), "one is under way")
    await desk.actions.remove(hook.id, BY)
    target.reply = lambda _: answer(200)
    await desk.happen(20)
    await desk.happen(1, "invoice.created")
    await until(received(marker, 1), "later events are sent to others")
    assert len(target.received) == 1
    assert await desk.value("SELECT count(*) FROM hook_deliveries WHERE hook_id = $1", hook.id) == 0
    assert await desk.value("SELECT count(*) FROM audit_log WHERE action LIKE 'hook.%'") == 3


async def test_no_lock_on_a_hook_holds_up_an_event(desk: Desk) -> None:
    await desk.add(await desk.endpoint())
    async with desk.pool.transaction() as connection:
        await connection.execute("DELETE FROM hooks")
        await asyncio.wait_for(desk.happen(), 2)


async def test_texts_are_sent_for_events_that_have_one_and_history_is_bounded(desk: Desk) -> None:
    target = await desk.endpoint()
    texts = '[headers]\nTitle = "Billing"\n[texts]\n"quota.warning" = "Place {place}"'
    hook = await desk.add(target, "quota.*", texts=texts)
    desk.lead()
    await desk.happen(1, "quota.reset")
    await desk.happen(ANSWERS_KEPT + 60)
    await until(received(target, ANSWERS_KEPT + 60), "texts")
    assert target.received[7].body == b"Place 7"
    assert target.received[0].headers["title"] == "Billing"
    assert target.received[0].headers["content-type"] == "text/plain; charset=utf-8"
    target.verify(hook.secret)
    await desk.happen()
    await desk.until_drained()
    assert await desk.value("SELECT count(*) FROM hook_answers") <= ANSWERS_KEPT + 50


async def test_an_event_larger_than_the_bound_is_sent_without_its_data(desk: Desk) -> None:
    target = await desk.endpoint()
    await desk.add(target)
    desk.lead()
    async with desk.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO events (type, user_id, data, occurred_at)"
            " VALUES ('quota.reset', gen_random_uuid(), jsonb_build_object('x', repeat('y', 100000)), $1)",
            desk.clock(),
        )
    desk.wake()
    await until(received(target, 1), "it is sent")
    assert len(target.received[0].body) < 1000
    assert json.loads(target.received[0].body)["data"] == {"omitted": "larger than 64 KiB"}


async def test_a_hook_is_added_once_and_for_events_that_exist(desk: Desk) -> None:
    target = await desk.endpoint()
    await desk.add(target)
    with pytest.raises(Conflict):
        await desk.add(target)
    for patterns, texts in (
        (("subscription.ended",), None),
        (("nothing*",), None),
        (("quota.*",), '[texts]\n"invoice.created" = "x"'),
        (("quota.*",), '[texts]\n"quota.unknown" = "x"'),
    ):
        with pytest.raises(Invalid):
            await desk.actions.add("https://example.org/", patterns, texts=texts, allow_private=False, by=BY)


async def test_a_short_quota_comes_with_a_link_to_a_pack_that_fits(desk: Desk) -> None:
    texts = '[texts]\n"quota.exhausted" = "All {messages_limit} messages are used. {topup_url}"'
    bot, service = await desk.endpoint(), await desk.endpoint()
    await desk.add(bot, texts=texts)
    await desk.add(service)
    desk.lead()
    for plan_type in ("wanderer", "sanctuary"):
        await desk.happen(event_type="quota.exhausted", plan_type=plan_type, messages_limit=50)
    await desk.until_drained()
    (said, plain), (told, bare) = ([each.body.decode() for each in one.received] for one in (bot, service))
    url = said.removeprefix("All 50 messages are used. ")
    assert url.startswith(f"{PUBLIC}/r/")
    assert url.endswith("?pack=extra_50")
    assert len(url) <= MOST_CHARACTERS
    assert json.loads(told)["data"]["topup_url"] == url
    assert plain == "All 50 messages are used."
    assert "topup_url" not in json.loads(bare)["data"]
