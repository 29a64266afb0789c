"""Statements of metering against the migrated schema, and the rules of the domain they must agree with."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.domain.metering import UsageDecision
from kosmo_billing_daemon.domain.subscriptions import Status, Subscription
from kosmo_billing_daemon.store import subscriptions, usage
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.postgres import Connection, Database
from kosmo_billing_daemon.store.usage import Quarantined, UsageRows
from tests.domain.builders import OTHER_PLANS, START, Step, play
from tests.support.counting import attributed, thresholds_crossed
from tests.support.usage import DAY, NOW, event_types, granted, subscribe, used

SECOND = timedelta(seconds=1)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await Database(url=database_url).connect()
    yield connection
    await connection.close()


async def count(
    connection: Connection,
    events: Sequence[tuple[UUID, str, datetime]],
    *,
    now: datetime = NOW,
    reports: Sequence[int] | None = None,
) -> list[int]:
    places = list(reports or [0] * len(events))
    columns = UsageRows(
        user_id=[str(user) for user, _, _ in events],
        message_id=[message for _, message, _ in events],
        node_id=["!0000000a"] * len(events),
        count=[1] * len(events),
        sent_at=[sent_at for _, _, sent_at in events],
        report=places,
        reporters=[f"gateway-{number}" for number in range(max(places) + 1)],
    )
    async with connection.transaction():
        await usage.lock_counters(connection, {str(user) for user, _, _ in events})
        return await usage.count(connection, columns, now)


async def test_a_message_counts_once_within_and_between_batches(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)
    one, two = (row.user_id, "one", NOW - SECOND), (row.user_id, "two", NOW - SECOND)
    assert await count(connection, [one, two, one, one], reports=[0, 0, 1, 1]) == [2, 0]
    assert await count(connection, [two, one]) == [0]
    assert await used(connection, row) == 2


async def test_the_same_id_of_two_users_is_two_messages(connection: Connection) -> None:
    rows = [granted(uuid4()), granted(uuid4())]
    await subscribe(connection, *rows)
    assert await count(connection, [(row.user_id, "same", NOW - SECOND) for row in rows]) == [2]
    assert [await used(connection, row) for row in rows] == [1, 1]


async def test_nobodys_messages_are_remembered_and_counted_on_nothing(connection: Connection) -> None:
    user = uuid4()
    assert await count(connection, [(user, "one", NOW)]) == [1]
    assert await count(connection, [(user, "one", NOW)]) == [0]
    (latest,) = await usage.load_latest(connection, user, 10)
    assert (latest.subscription_id, latest.decision) == (None, UsageDecision.NO_SUBSCRIPTION)


@pytest.mark.parametrize("clock", [400 * DAY, 20 * DAY])
async def test_attribution_is_the_domains(connection: Connection, clock: timedelta) -> None:
    """Random histories: each instant counts on the purchase that the pure rule names, whatever the clock."""
    chance = random.Random(5)
    now = START + clock
    expected: dict[tuple[UUID, str], UUID | None] = {}
    events: list[tuple[UUID, str, datetime]] = []
    for _ in range(25):
        user = uuid4()
        history, _ = play(_story(chance))
        own = {row.id: uuid4() for row in history}
        rows = [_of(row, user, own) for row in history]
        await subscribe(connection, *rows)
        edges = {t for row in rows for t in (row.valid_from, row.ended_at, row.valid_until, row.end) if t}
        moments = sorted({t + d for t in edges for d in (-SECOND, timedelta(0), SECOND)})
        for number, moment in enumerate(moments):
            named = attributed(rows, min(moment, now), now)
            expected[user, f"m{number}"] = None if named is None else named.id
            events.append((user, f"m{number}", moment))
    await count(connection, events, now=now)
    rows_counted = await connection.fetch("SELECT user_id, message_id, subscription_id FROM usage_events")
    assert {(r["user_id"], r["message_id"]): r["subscription_id"] for r in rows_counted} == expected
    assert len([found for found in expected.values() if found]) > 50


def _story(chance: random.Random) -> list[Step]:
    kinds = ("buy", "buy", "use", "revoke", "reinstate", "tick")
    return [
        Step(
            chance.choice([SECOND, DAY, 10 * DAY, 30 * DAY]),
            chance.choice(kinds),
            chance.choice(OTHER_PLANS),
            chance.randrange(600),
        )
        for _ in range(chance.randrange(1, 10))
    ]


def _of(row: Subscription, user: UUID, ids: dict[Any, UUID]) -> Subscription:
    carried = replace(row.carried, from_id=None)
    return replace(row, id=ids[row.id], user_id=user, invoice_id=None, source="grant", carried=carried)  # type: ignore[arg-type]  # ids of their own


async def test_thresholds_are_the_domains_whoever_counts(connection: Connection) -> None:
    """Plain SQL increments announce what the pure rule says, each once."""
    chance = random.Random(3)
    for limit in (1, 4, 5, 50, 333, None):
        row = granted(uuid4(), messages_limit=limit)
        await subscribe(connection, row)
        announced, total, expected = 0, 0, list[str]()
        for _ in range(30):
            step = chance.randrange(max(2, (limit or 50) // 6))
            total += step
            for at in thresholds_crossed(announced, total, limit):
                expected.append({80: "quota.warning", 100: "quota.exhausted"}[at])
                announced = at
            await connection.execute(
                "UPDATE subscriptions SET messages_used = messages_used + $2 WHERE id = $1", row.id, step
            )
        assert await event_types(connection, row.user_id) == expected
        assert expected == ([] if limit is None else ["quota.warning", "quota.exhausted"])


async def test_a_jump_over_both_thresholds_announces_both(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)
    await count(connection, [(row.user_id, f"m{n}", NOW - SECOND) for n in range(60)])
    assert await event_types(connection, row.user_id) == ["quota.warning", "quota.exhausted"]
    data = await connection.fetchval("SELECT data::text FROM events WHERE type = 'quota.exhausted'")
    for fact in (str(row.id), '"messages_used": 60', '"messages_limit": 50', '"threshold": 100'):
        assert fact in data


async def test_a_subscription_that_has_ended_is_counted_and_not_announced(connection: Connection) -> None:
    row = granted(uuid4(), status=Status.REPLACED, ended_at=NOW - DAY)
    await subscribe(connection, row)
    await count(connection, [(row.user_id, f"m{n}", NOW - 2 * DAY) for n in range(60)])
    assert await used(connection, row) == 60
    assert await event_types(connection, row.user_id) == []


async def test_what_is_over_the_limit_is_marked_exactly(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)
    await connection.execute("UPDATE subscriptions SET messages_used = 10 WHERE id = $1", row.id)
    sent = [(row.user_id, f"m{n:02}", NOW - timedelta(seconds=100 - n)) for n in range(70)]
    await count(connection, sent[:30], now=NOW)
    await count(connection, sent[:45], now=NOW + SECOND)
    await count(connection, sent, now=NOW + 2 * SECOND)
    latest = await usage.load_latest(connection, row.user_id, 100)
    over = sorted(e.message_id for e in latest if e.decision is UsageDecision.OVER_LIMIT)
    assert over == [f"m{n:02}" for n in range(40, 70)]


async def test_days_are_sums_of_their_messages(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)
    times = [NOW - 2 * DAY, NOW - 2 * DAY, NOW - DAY, NOW, NOW]
    await count(connection, [(row.user_id, f"m{n}", at) for n, at in enumerate(times)])
    await count(connection, [(row.user_id, "m0", times[0]), (row.user_id, "late", NOW - DAY)])
    days = await usage.load_days(connection, row.user_id, (NOW - DAY).date(), NOW.date())
    assert [(day.day, day.messages) for day in days] == [((NOW - DAY).date(), 2), (NOW.date(), 2)]
    assert [e.message_id for e in await usage.load_latest(connection, row.user_id, 2)] in (
        ["m3", "m4"],
        ["m4", "m3"],
    )


async def test_retention_forgets_the_oldest_first(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)
    for number in range(4):
        await count(connection, [(row.user_id, f"m{number}", NOW)], now=NOW + number * DAY)
    assert await usage.remove_events(connection, NOW + 3 * DAY, 2) == 2
    assert await usage.remove_events(connection, NOW + 3 * DAY, 2) == 1
    assert await usage.remove_events(connection, NOW + 3 * DAY, 2) == 0
    assert [e.message_id for e in await usage.load_latest(connection, row.user_id, 9)] == ["m3"]
    assert await usage.remove_days(connection, NOW.date(), 9) == 0
    assert await usage.remove_days(connection, (NOW + DAY).date(), 9) == 1
    assert await used(connection, row) == 4


async def test_quarantine_keeps_the_newest(connection: Connection) -> None:
    def bad(number: int) -> Quarantined:
        return Quarantined(reporter="g", reason=f"reason {number}", payload=b"\x00\xff", size=2)

    await usage.append_quarantine(connection, [bad(n) for n in range(5)], NOW)
    await usage.append_quarantine(connection, [bad(5)], NOW + DAY)
    assert await usage.remove_quarantined(connection, NOW, 3, 100) == 3
    assert await usage.remove_quarantined(connection, NOW, 3, 100) == 0
    reasons = await connection.fetch("SELECT reason, payload FROM usage_quarantine ORDER BY id")
    assert [r["reason"] for r in reasons] == ["reason 3", "reason 4", "reason 5"]
    assert await usage.remove_quarantined(connection, NOW + DAY, 3, 100) == 2


async def test_counting_raises_versions_and_a_threshold_is_urgent(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)

    async def version() -> int:
        found: int = await connection.fetchval("SELECT version FROM entitlements")
        return found

    async def queued() -> list[str]:
        return [row["kind"] for row in await connection.fetch("SELECT kind FROM outbox ORDER BY id")]

    first = await version()
    await count(connection, [(row.user_id, "m0", NOW)])
    second = await version()
    assert second > first
    assert await queued() == ["rights", "usage"]
    await count(connection, [(row.user_id, f"m{n}", NOW) for n in range(1, 41)])
    assert await version() > second
    assert sorted(await queued()) == ["event", "rights", "rights", "usage"]


async def test_reading_usage_uses_its_indexes(connection: Connection) -> None:
    await connection.execute("SET enable_seqscan = off")
    for statement, arguments, index in (
        (usage._LATEST, (uuid4(), 20), "usage_events_latest"),
        (usage._DAYS, (uuid4(), NOW.date(), NOW.date()), "usage_days_pkey"),
        (usage._REMOVE_EVENTS, (NOW, 10), "usage_events_by_arrival"),
        (usage._REMOVE_DAYS, (NOW.date(), 10), "usage_days_by_day"),
    ):
        plan = await connection.fetch(f"EXPLAIN {_with(statement, arguments)}")
        assert index in "\n".join(row[0] for row in plan)


def _with(statement: str, arguments: Sequence[object]) -> str:
    for place, value in enumerate(arguments, 1):
        text = str(value) if isinstance(value, int) else f"'{value}'"
        statement = statement.replace(f"${place}", text)
    return statement


async def test_saving_a_subscription_keeps_what_was_counted_meanwhile(connection: Connection) -> None:
    row = granted(uuid4())
    await subscribe(connection, row)
    await count(connection, [(row.user_id, f"m{n}", NOW) for n in range(45)])
    saved = replace(row, valid_until=row.valid_until + DAY)
    await combine(connection, [subscriptions.save_statement([saved])])
    assert await used(connection, row) == 45
    assert await event_types(connection, row.user_id) == ["quota.warning"]
