"""Counting against the clock and beside purchases."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.reporters import ReporterActions, Voided
from kosmo_billing_daemon.contract.payloads import Rejection, UsageAck
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.ceilings import Ceilings
from kosmo_billing_daemon.services.housekeeping import Housekeeping
from kosmo_billing_daemon.services.metering import Metering, Report
from kosmo_billing_daemon.settings import Retention
from kosmo_billing_daemon.store.postgres import Database, Pool
from kosmo_billing_daemon.store.usage import Quarantined
from tests.services.conftest import Daemon, Shop
from tests.support.usage import DAY, NOW, event, granted, messages, payload, subscribe, used

SECOND = timedelta(seconds=1)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with Pool(Database(url=database_url)) as opened:
        yield opened


@pytest.fixture
def metering(pool: Pool) -> Metering:
    return Metering(pool=pool, clock=lambda: NOW, changed=lambda: None)


async def count(metering: Metering, events: Sequence[dict[str, Any]], reporter: str = "gateway") -> UsageAck:
    (ack,) = await metering.count([read(metering, payload(events), reporter)])
    assert ack is not None
    return ack


def read(metering: Metering, sent: bytes, reporter: str = "gateway") -> Report:
    report = metering.read(reporter, sent)
    assert isinstance(report, Report)
    return report


async def rows(pool: Pool, sql: str, *arguments: object) -> list[Any]:
    async with pool.connection() as connection:
        return list(await connection.fetch(sql, *arguments))


async def test_late_messages_count_for_seven_days(pool: Pool, metering: Metering) -> None:
    row = granted(uuid4(), valid_from=NOW - 10 * DAY, valid_until=NOW + 20 * DAY)
    async with pool.connection() as connection:
        await subscribe(connection, row)
    late = event(row.user_id, "late", NOW - timedelta(days=6.9))
    later = event(row.user_id, "later", NOW - timedelta(days=7.1))
    ack = await count(metering, [late, later])
    rejected = (Rejection("later", "too_old"),)
    assert ack == UsageAck(report_id="r", accepted=1, duplicates=0, rejected=rejected, at=NOW)
    async with pool.connection() as connection:
        assert await used(connection, row) == 1


async def test_messages_from_the_future_count_now(pool: Pool, metering: Metering) -> None:
    row = granted(uuid4())
    async with pool.connection() as connection:
        await subscribe(connection, row)
    ack = await count(metering, [event(row.user_id, "a", NOW + 400 * DAY)])
    assert ack.accepted == 1
    ((sent_at, subscription),) = await rows(pool, "SELECT sent_at, subscription_id FROM usage_events")
    assert (sent_at, subscription) == (NOW, row.id)


async def test_a_clock_that_steps_back_between_reading_and_counting_harms_nothing(pool: Pool) -> None:
    row = granted(uuid4())
    async with pool.connection() as connection:
        await subscribe(connection, row)
    metering = Metering(pool=pool, clock=lambda: NOW - DAY, changed=lambda: None)
    assert (await count(metering, [event(row.user_id, "a", NOW)])).accepted == 1


async def test_wrong_events_are_named_and_spoil_nothing(pool: Pool, metering: Metering) -> None:
    user = uuid4()
    wrong = event(user, "wrong") | {"count": 0}
    ack = await count(metering, [event(user, "a"), wrong, event(user, "a")])
    assert (ack.accepted, ack.duplicates) == (1, 1)
    assert [rejection.message_id for rejection in ack.rejected] == ["wrong"]
    assert await rows(pool, "SELECT message_id FROM usage_events") == [("a",)]
    tally = metering.tally
    assert (tally.accepted, tally.duplicates, tally.rejected) == (1, 1, 1)


async def test_a_count_of_several_counts_as_several(pool: Pool, metering: Metering) -> None:
    row = granted(uuid4())
    async with pool.connection() as connection:
        await subscribe(connection, row)
    await count(metering, [event(row.user_id, "a") | {"count": 7}, event(row.user_id, "b")])
    async with pool.connection() as connection:
        assert await used(connection, row) == 8


async def test_concurrent_reporters_of_the_same_messages_share_them(pool: Pool, metering: Metering) -> None:
    subscribed = [granted(uuid4(), messages_limit=None) for _ in range(8)]
    async with pool.connection() as connection:
        await subscribe(connection, *subscribed)
    events = [event(row.user_id, f"m{n}") for row in subscribed for n in range(25)]
    orders = [events, events[::-1], events[100:] + events[:100], events[::2] + events[1::2]]
    acks = await asyncio.gather(
        *(count(metering, order, f"gateway-{n}") for n, order in enumerate(orders * 2))
    )
    assert sum(ack.accepted for ack in acks) == len(events)
    assert sum(ack.duplicates for ack in acks) == 7 * len(events)
    async with pool.connection() as connection:
        assert [await used(connection, row) for row in subscribed] == [25] * 8


async def test_sql_increments_beside_reports_lose_nothing(pool: Pool, metering: Metering) -> None:
    row = granted(uuid4())
    async with pool.connection() as connection:
        await subscribe(connection, row)

    async def legacy() -> None:
        async with pool.connection() as connection:
            await connection.execute("UPDATE subscriptions SET messages_used = messages_used + 1")

    work = [legacy() for _ in range(25)]
    work += [_one(metering, row.user_id, n) for n in range(25)]
    await asyncio.gather(*work)
    async with pool.connection() as connection:
        assert await used(connection, row) == 50
    events = await rows(pool, "SELECT type FROM events ORDER BY id")
    assert [type_ for (type_,) in events] == ["quota.warning", "quota.exhausted"]


async def _one(metering: Metering, user: UUID, number: int) -> None:
    await count(metering, [event(user, f"m{number}")])


async def test_what_breaks_the_transaction_is_put_aside_alone(
    pool: Pool, metering: Metering, caplog: pytest.LogCaptureFixture
) -> None:
    """A report whose events the database refuses costs the others nothing, and is not answered."""
    row = granted(uuid4(), messages_limit=None)
    full = granted(uuid4(), messages_limit=None)
    async with pool.connection() as connection:
        await subscribe(connection, row, full)
        await connection.execute(
            "UPDATE subscriptions SET messages_used = 9223372036854775807 WHERE id = $1", full.id
        )
    sent = [payload([event(user, "a")], f"r-{n}") for n, user in enumerate((row.user_id, full.user_id))]
    malformed = metering.read("other", b"no")
    assert isinstance(malformed, Quarantined)
    with caplog.at_level(logging.CRITICAL):
        acks = await metering.count([read(metering, one) for one in sent], [malformed])
    assert acks == [UsageAck(report_id="r-0", accepted=1, duplicates=0, at=NOW), None]
    kept = await rows(pool, "SELECT reporter, reason FROM usage_quarantine ORDER BY id")
    assert [tuple(r) for r in kept] == [
        ("other", malformed.reason),
        ("gateway", "could not be counted"),
    ]
    assert len(await rows(pool, "SELECT FROM usage_events")) == 1


@pytest.mark.parametrize("reporter", ["", "x" * 129, "a\nb", "\x7f"])
def test_a_reporter_needs_a_name_that_can_be_shown(metering: Metering, reporter: str) -> None:
    assert isinstance(metering.read(reporter, payload([event(uuid4(), "a")])), Quarantined)


async def test_usage_is_forgotten_no_sooner_than_it_is_accepted(pool: Pool, metering: Metering) -> None:
    user = uuid4()
    await count(metering, [event(user, "a", NOW - timedelta(days=6.9))])
    keep = Retention(deliveries=DAY, usage=timedelta(0), usage_days=8 * DAY)
    house = Housekeeping(pool=pool, clock=lambda: NOW + 7 * DAY, retention=keep)
    assert await house.run_once() == 1  # the sum of the day it was sent
    assert (await count(metering, [event(user, "a", NOW - timedelta(days=6.9))])).duplicates == 1
    house = replace(house, clock=lambda: NOW + 9 * DAY)
    assert await house.run_once() == 1  # the message, nine days after it came
    assert await house.run_once() == 0


async def test_a_purchase_is_not_overtaken_by_messages_sent_after_it(shop: Shop, user: UserId) -> None:
    """Counting waits for a purchase under way, and then counts on what was bought."""
    await shop.buy(user)
    daemon = shop.front
    metering = Metering(pool=daemon.pool, clock=shop.clock, changed=lambda: None)
    shop.clock.move(days=1)
    bought_at = shop.clock()
    async with daemon.pool.transaction() as connection:
        await connection.fetch("SELECT FROM subscriptions WHERE user_id = $1 FOR UPDATE", user)
        counting = asyncio.create_task(count(metering, [event(user, "a", bought_at)]))
        await _waits_for_a_lock(daemon)
        await connection.execute("UPDATE subscriptions SET status = 'replaced', ended_at = $1", bought_at)
        new = granted(user, valid_from=bought_at, valid_until=bought_at + 30 * DAY)
        await subscribe(connection, new)
    await counting
    async with daemon.pool.connection() as connection:
        assert await used(connection, new) == 1


async def _waits_for_a_lock(daemon: Daemon) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await daemon.rows(waiting):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_use_counts_on_the_purchase_of_its_time(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    first = shop.clock()
    await shop.wait(days=2)
    await shop.buy(user, "guardian")
    second = shop.clock()
    await shop.wait(days=1)
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    times: list[datetime] = [first - SECOND, first + DAY, second - SECOND, second, second + DAY]
    await count(metering, [event(user, f"m{n}", at) for n, at in enumerate(times)])
    subscriptions = await shop.front.subscriptions(user)
    assert [row["messages_used"] for row in subscriptions] == [2, 2]


async def test_a_purchase_arms_the_thresholds_again_and_ends_the_shortage(shop: Shop, user: UserId) -> None:
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    await shop.buy(user)
    shop.clock.move(minutes=1)
    await count(metering, messages(user, 0, 40, shop.clock()))
    await shop.buy(user)
    shop.clock.move(minutes=1)
    await count(metering, messages(user, 40, 90, shop.clock()))
    await count(metering, messages(user, 90, 100, shop.clock()))
    events = [name for name in await shop.front.events(user) if name.startswith(("quota", "subscription"))]
    assert events == [
        "subscription.activated",
        "quota.warning",
        "subscription.renewed",
        "quota.reset",
        "quota.warning",
        "quota.exhausted",
    ]


async def test_a_purchase_without_shortage_resets_nothing(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    await shop.buy(user)
    assert not [name for name in await shop.front.events(user) if name.startswith("quota")]


def limited(pool: Pool, passed: list[float]) -> Metering:
    ceilings = Ceilings(messages=100, users=3, monotonic=lambda: passed[0])
    return Metering(pool=pool, clock=lambda: NOW, changed=lambda: None, ceilings=ceilings)


async def test_a_report_beyond_a_ceiling_is_quarantined_and_opens_a_case(pool: Pool) -> None:
    passed = [0.0]
    metering = limited(pool, passed)
    users = [uuid4() for _ in range(4)]

    def reads(events: Sequence[dict[str, Any]], reporter: str = "gateway") -> Report | Quarantined:
        return metering.read(reporter, payload(events))

    assert isinstance(reads([event(users[0], "a", NOW, count=100)]), Report)
    much = reads([event(users[0], "b", NOW)])
    many = reads([event(user, "c", NOW) for user in users[1:]])
    assert isinstance(much, Quarantined)
    assert isinstance(many, Quarantined)
    assert f"101 messages of user {users[0]} in one minute" in much.reason
    assert "more than 3 users in one minute" in many.reason
    assert isinstance(reads([event(users[0], "d", NOW, count=100)], "another"), Report)
    assert isinstance(reads([event(user, "c", NOW) for user in users[1:3]]), Report), (
        "what was refused is free"
    )
    passed[0] = 60.0
    assert isinstance(reads([event(users[0], "b", NOW, count=100)]), Report), "another minute"
    huge = reads([event(users[0], f"{n}", NOW - n * SECOND, count=1_000_000) for n in range(500)], "stolen")
    assert isinstance(huge, Quarantined)
    await metering.count([], [much, many, huge])
    await metering.count([], [much])
    cases = await rows(pool, "SELECT reporter, detail FROM reporter_cases ORDER BY reporter")
    assert [row["reporter"] for row in cases] == ["gateway", "stolen"]
    assert len(await rows(pool, "SELECT FROM usage_quarantine")) == 4


async def test_what_a_gate_kept_while_it_was_away_is_as_many_minutes_as_it_spans(pool: Pool) -> None:
    metering = limited(pool, [0.0])
    user, minute = uuid4(), timedelta(minutes=1)
    kept = [event(user, f"{n}", NOW - (300 - n) * minute, count=90) for n in range(300)]
    assert isinstance(metering.read("gateway", payload(kept)), Report)
    assert isinstance(metering.read("gateway", payload(kept)), Quarantined), (
        "times that go back are no minutes"
    )


async def test_what_a_stolen_gateway_counted_is_taken_back_once(pool: Pool, metering: Metering) -> None:
    rows_of = [granted(uuid4()) for _ in range(3)]
    async with pool.connection() as connection:
        for row in rows_of:
            await subscribe(connection, row)
    first, second, third = rows_of
    await count(metering, [event(first.user_id, f"right-{n}", NOW) for n in range(10)], "honest")
    stolen = [event(row.user_id, f"stolen-{n}", NOW, count=30) for row in (first, second) for n in range(2)]
    await count(metering, stolen, "stolen")
    await count(metering, [event(third.user_id, "x", NOW)], "stolen")
    before = await rows(pool, "SELECT user_id, version FROM entitlements ORDER BY user_id")
    actions = ReporterActions(pool=pool, clock=lambda: NOW + SECOND)
    by = OperatorAction("Ann", "the card was stolen")
    assert await actions.void("stolen", NOW + SECOND, by) == Voided(0, 0)
    assert await actions.void("stolen", NOW, by) == Voided(3, 121)
    assert await actions.void("stolen", NOW, by) == Voided(0, 0)
    async with pool.connection() as connection:
        assert [await used(connection, row) for row in rows_of] == [10, 0, 0]
    after = await rows(pool, "SELECT user_id, version FROM entitlements ORDER BY user_id")
    assert all(new["version"] > old["version"] for old, new in zip(before, after, strict=True))
    assert (await count(metering, stolen, "stolen")).duplicates == 4, "sent again it counts as little"
    (days,) = await rows(pool, "SELECT sum(messages) AS messages FROM usage_days")
    assert days["messages"] == 10
    announced = await rows(pool, "SELECT type FROM events WHERE user_id = $1 ORDER BY id", second.user_id)
    assert [row["type"] for row in announced] == ["quota.warning", "quota.exhausted", "quota.reset"]
    await count(metering, [event(second.user_id, f"again-{n}", NOW, count=45) for n in range(1)], "honest")
    announced = await rows(pool, "SELECT type FROM events WHERE user_id = $1 ORDER BY id", second.user_id)
    assert announced[-1]["type"] == "quota.warning", "the threshold is armed again"
    audit = await rows(pool, "SELECT subject FROM audit_log WHERE user_id = $1", first.user_id)
    assert [row["subject"][:34] for row in audit] == ["60 messages that stolen counted si"]
