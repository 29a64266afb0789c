"""People hear in time, once: reminders and renewals over moved clocks and kills, and hooks under load."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.hooks import HookActions
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.support.daemon import DaemonProcess
from tests.support.endpoint import Endpoint, Received, answer, endpoint, hang
from tests.support.faketime import SetClock
from tests.support.quotes import WANDERER, quoting
from tests.support.world import World, until

HOUR = timedelta(hours=1)
BY = OperatorAction("tester", "a test")

# Everybody's plan ends within one minute.
_TOGETHER = quoting(
    WANDERER,
    """
INSERT INTO subscriptions (id, user_id, quote_id, source, status, valid_from, valid_until, messages_limit,
    carried_rule, carried_time, carried_messages)
SELECT gen_random_uuid(), user_id, :quote, 'grant', 'active', $2::timestamptz - interval '29 days',
    $2::timestamptz + place * interval '1 minute' / cardinality($1), 50, 'fresh', '0', 0
FROM unnest($1::uuid[]) WITH ORDINALITY AS u (user_id, place)
""",
)
_CREDIT = """
INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)
SELECT now(), user_id, 'granted', 5, 'USD', 'tester', 'a gift' FROM unnest($1::uuid[]) AS u (user_id)
"""
_CHOOSE = """
INSERT INTO auto_renewals (user_id, is_on, chosen_at)
SELECT user_id, true, now() FROM unnest($1::uuid[]) AS u (user_id)
"""
_TOLD = "SELECT count(*) FROM events WHERE type = $1"
_REPEATED = """
SELECT count(*) FROM (
    SELECT FROM events WHERE type LIKE 'subscription.%' GROUP BY user_id, type, data->>'hours_left'
    HAVING count(*) > 1) AS twice
"""
_HAPPEN = """
INSERT INTO events (type, user_id, data, occurred_at)
SELECT 'quota.reset', gen_random_uuid(), '{}', clock_timestamp() FROM generate_series(1, $1)
"""


async def _killed_around(world: World, daemon: DaemonProcess, event: str, count: int, deaths: int) -> None:
    """Kill the daemon again and again while it announces something, and let the last one finish."""
    chance = random.Random(count)
    for _ in range(deaths):
        await asyncio.sleep(chance.uniform(0, 0.6))
        daemon.kill()
        await daemon.start()

    async def all_told() -> bool:
        return bool(await world.value(_TOLD, event) >= count)

    await until(all_told, lambda: f"{count} of {event}\n{daemon.log[-3000:]}", 60)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_thousand_who_end_within_a_minute_are_told_of_each_step_once(
    world: World, tmp_path: Path
) -> None:
    """Killed five times around each step, with the clock set to it; a tenth of them renews from credit."""
    clock = SetClock(tmp_path)
    clock.assert_works()
    daemon = await world.daemon(**clock.settings, PUBLIC_URL="https://billing.kosmoconnect.example")
    users = [uuid4() for _ in range(1000)]
    renewing = users[:100]
    end = datetime.now(UTC) + timedelta(days=1)
    await world.execute(_TOGETHER, users, end + 7 * timedelta(days=1))
    await world.execute(_CREDIT, renewing)
    await world.execute(_CHOOSE, renewing)
    steps = [(168, "subscription.expiring", 900), (72, "subscription.expiring", 1800)]
    steps += [(24, "subscription.expiring", 2700), (0, "subscription.expired", 900)]
    began = time.monotonic()
    for hours, event, count in steps:
        at = end + 7 * timedelta(days=1) - hours * HOUR + timedelta(minutes=2)
        clock.set(at - datetime.now(UTC))
        await _killed_around(world, daemon, event, count, 5)
    print(f"4 steps of 1000 subscriptions, 20 kills, in {time.monotonic() - began:.1f} s")
    await until(lambda: _has_no_outbox(world), "all is published", 60)
    kinds = await world.value(
        "SELECT jsonb_object_agg(type, number)::text FROM"
        " (SELECT type, count(*) AS number FROM events GROUP BY type) AS of_type"
    )
    print(kinds)
    assert await world.value(_REPEATED) == 0
    for event, count in {
        "subscription.expiring": 2700,
        "subscription.renewing": 100,
        "subscription.renewed": 100,
        "subscription.expired": 900,
    }.items():
        assert await world.value(_TOLD, event) == count, event
    heard = Counter(world.observer.events())
    assert all(heard[event] >= count for event, count in [("subscription.expiring", 2700)]), heard


async def _has_no_outbox(world: World) -> bool:
    return bool(await world.value("SELECT count(*) FROM outbox") == 0)


def _numbers(received: Sequence[Received]) -> list[int]:
    """The numbers of the events, as they first came."""
    return list(dict.fromkeys(int(one.id.rpartition("/")[2].partition("-")[0]) for one in received))


def _in_order(target: Endpoint) -> bool:
    return all(before < after for before, after in pairwise(_numbers(target.received)))


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_ten_thousand_events_reach_each_endpoint_in_order_whatever_the_others_do(
    world: World, tmp_path: Path
) -> None:
    """One hangs, one answers 500 for an hour, one is gone, one is slow; the leader is killed in between."""
    clock = SetClock(tmp_path)
    clock.assert_works()
    daemon = await world.daemon(**clock.settings)
    async with (
        Pool(Database(url=world.database_url)) as pool,
        endpoint() as healthy,
        endpoint() as hanging,
        endpoint() as broken,
        endpoint() as gone,
        endpoint() as slow,
    ):
        actions = HookActions(pool=pool, clock=utc_now)
        hanging.reply = hang
        broken.reply = lambda _: answer(500)
        gone.reply = lambda _: answer(410)

        async def dawdle(_: web.Request) -> web.StreamResponse:
            await asyncio.sleep(0.01)
            return await answer(200)

        slow.reply = dawdle
        hooks = {}
        for target in (healthy, hanging, broken, gone, slow):
            added = await actions.add(target.url, ("quota.*",), texts=None, allow_private=True, by=BY)
            hooks[target.url] = added
        happened: dict[int, float] = {}
        for batch in range(200):
            await world.execute(_HAPPEN, 50)
            newest = await world.value("SELECT max(id) FROM events WHERE type = 'quota.reset'")
            happened |= dict.fromkeys(range(newest - 49, newest + 1), time.monotonic())
            if batch == 170:
                daemon.kill()
                await daemon.start()
            await asyncio.sleep(0.3)
        first: dict[int, float] = {}
        await until(lambda: len(_numbers(healthy.received)) == 10_000, lambda: len(healthy.received), 120)
        for one in healthy.received:
            first.setdefault(_numbers([one])[0], one.at)
        before_the_kill = sorted(happened)[: 165 * 50]
        waits = sorted(first[number] - happened[number] for number in before_the_kill)
        print(f"healthy: p50 {waits[len(waits) // 2]:.3f} s, p99 {waits[len(waits) * 99 // 100]:.3f} s")
        await until(lambda: len(_numbers(slow.received)) == 10_000, lambda: len(slow.received), 300)
        assert (len(gone.received), len(_numbers(broken.received))) == (1, 1), "in vain"
        await actions.remove(hooks[hanging.url].id, BY)
        held = len(hanging.received)
        broken.reply = lambda _: answer(200)
        clock.set(timedelta(hours=1))
        await until(lambda: len(_numbers(broken.received)) == 10_000, lambda: len(broken.received), 120)
        for target in (healthy, broken, slow):
            assert _in_order(target)
            assert set(_numbers(target.received)) == set(happened)
            repeated = len(target.received) - 10_000
            bodies = {one.id: one.body for one in target.received}
            assert all(bodies[one.id] == one.body for one in target.received)
            print(f"{repeated} repeats")
        await world.execute(_HAPPEN, 10)
        await until(lambda: len(_numbers(healthy.received)) == 10_010, "some more", 30)
        assert len(hanging.received) == held, "nothing after its removal"
        assert len(gone.received) == 1
        assert waits[len(waits) * 99 // 100] <= 1.0


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_ten_thousand_looks_at_a_link_create_no_invoice_and_a_hundred_payments_one(
    world: World,
) -> None:
    public = "http://127.0.0.1"
    daemon = await world.daemon(PUBLIC_URL=public)
    user = await world.buy(daemon)
    link = await _link(world, daemon, user)
    before = await world.value("SELECT count(*) FROM btcpay_invoices")
    for _ in range(100):
        answers = await asyncio.gather(*(_get(world, link) for _ in range(100)))
        assert set(answers) == {200}
    assert await world.value("SELECT count(*) FROM btcpay_invoices") == before
    answers = await asyncio.gather(*(_post(world, link) for _ in range(100)))
    assert set(answers) == {303, 429}
    assert await world.value("SELECT count(*) FROM btcpay_invoices") == before + 1


async def _link(world: World, daemon: DaemonProcess, user: UUID) -> str:
    headers = {"X-User-ID": str(user)}
    async with world.http.get(f"{daemon.url}/api/v1/billing/subscription", headers=headers) as response:
        shown = (await response.json())["renew_url"]
    path = re.sub(r"^http://127.0.0.1", "", shown)
    return f"{daemon.url}{path}"


async def _get(world: World, url: str) -> int:
    async with world.http.get(url) as response:
        await response.read()
        return response.status


async def _post(world: World, url: str) -> int:
    async with world.http.post(url, allow_redirects=False) as response:
        await response.read()
        return response.status
