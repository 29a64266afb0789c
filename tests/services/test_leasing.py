"""Leases on a real database: used and leased never exceed the limit together, whatever is asked how often."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.reporters import ReporterActions, Voided
from kosmo_billing_daemon.contract.lease_payloads import HeldLease, LeaseAnswer, LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.metering import Metering, Report
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.support.usage import DAY, NOW, event, granted, payload, subscribe

BY = OperatorAction("Ann", "the gateway burned down")
WATCH = """
CREATE FUNCTION never_oversold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM subscriptions AS s WHERE s.messages_used + coalesce((
            SELECT sum(greatest(0, messages - used)) FROM leases WHERE subscription_id = s.id), 0)
            > s.messages_limit) THEN
        RAISE EXCEPTION 'oversold';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER watch_leases AFTER INSERT OR UPDATE ON leases
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION never_oversold();
CREATE CONSTRAINT TRIGGER watch_use AFTER INSERT OR UPDATE ON subscriptions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION never_oversold();
"""
"""At every commit, what is used and leased of every subscription."""


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with Pool(Database(url=database_url)) as opened:
        async with opened.connection() as connection:
            await connection.execute(WATCH)
        yield opened


@pytest.fixture
def leasing(pool: Pool) -> Leasing:
    return Leasing(pool=pool, clock=lambda: NOW)


@pytest.fixture
def metering(pool: Pool) -> Metering:
    return Metering(pool=pool, clock=lambda: NOW, changed=lambda: None)


async def subscribed(pool: Pool, limit: int | None = 500, **changes: Any) -> Subscription:
    row = granted(uuid4(), messages_limit=limit, **changes)
    async with pool.connection() as connection:
        await subscribe(connection, row)
    return row


async def ask(leasing: Leasing, user: UUID, want: int, reporter: str = "gw-1", **more: Any) -> LeaseAnswer:
    """Ask until there is an answer, as gates do: on a busy host rows may be locked for too long."""
    request = LeaseRequest(**{"request_id": uuid4().hex, "user_id": user, "want": want, **more})
    answer: LeaseAnswer | None = None
    async with asyncio.timeout(20):
        while answer is None:
            (answer,) = await leasing.answer([(reporter, request)])
    return answer


async def report(metering: Metering, events: list[dict[str, Any]], reporter: str = "gw-1") -> None:
    read = metering.read(reporter, payload(events))
    assert isinstance(read, Report)
    (ack,) = await metering.count([read])
    assert ack is not None


async def standing(pool: Pool, row: Subscription) -> tuple[int, int]:
    """What is used and what is leased."""
    async with pool.connection() as connection:
        found = await connection.fetchrow(
            "SELECT messages_used, (SELECT coalesce(sum(greatest(0, messages - used)), 0)::bigint FROM leases"
            " WHERE subscription_id = s.id) AS leased FROM subscriptions AS s WHERE id = $1",
            row.id,
        )
    assert found is not None
    return found["messages_used"], found["leased"]


async def test_a_lease_is_a_share_of_the_quota_and_ends_with_it(pool: Pool, leasing: Leasing) -> None:
    row = await subscribed(pool)
    first = await ask(leasing, row.user_id, 64)
    assert (first.messages, first.subscription_id, first.expires_at) == (64, row.id, row.valid_until)
    assert (first.at, first.reason) == (NOW, None)
    second = await ask(leasing, row.user_id, 1000, "gw-2")
    assert second.messages == (500 - 64) // 4
    assert await standing(pool, row) == (0, 64 + 109)


@pytest.mark.parametrize(
    ("limit", "changes", "reason"),
    [
        (None, {}, LeaseRefusal.UNLIMITED),
        (50, {"messages_used": 50}, LeaseRefusal.QUOTA_EXHAUSTED),
        (50, {"valid_until": NOW}, LeaseRefusal.NO_SUBSCRIPTION),
    ],
)
async def test_what_has_nothing_to_lease_says_why(
    pool: Pool, leasing: Leasing, limit: int | None, changes: dict[str, Any], reason: LeaseRefusal
) -> None:
    row = await subscribed(pool, limit, **changes)
    answer = await ask(leasing, row.user_id, 5)
    assert (answer.reason, answer.lease_id, answer.messages) == (reason, None, 0)
    assert (await ask(leasing, uuid4(), 5)).reason is LeaseRefusal.NO_SUBSCRIPTION
    assert (await ask(leasing, row.user_id, 0)).reason in {reason, LeaseRefusal.NOTHING_ASKED}


async def test_a_question_asked_twice_leases_once(pool: Pool, leasing: Leasing) -> None:
    row = await subscribed(pool)
    request = LeaseRequest(request_id="same", user_id=row.user_id, want=10)
    first, twin = await leasing.answer([("gw-1", request), ("gw-1", request)])
    again, other = await leasing.answer([("gw-1", request), ("gw-2", request)])
    assert first == twin == again
    assert other is not None
    assert first is not None
    assert other.lease_id != first.lease_id
    assert await standing(pool, row) == (0, 20)


async def test_use_under_a_lease_takes_from_it_once_and_what_is_handed_back_is_free(
    pool: Pool, leasing: Leasing, metering: Metering
) -> None:
    row = await subscribed(pool, 40)
    lease = await ask(leasing, row.user_id, 10)
    named = [event(row.user_id, f"m{n}", lease_id=str(lease.lease_id)) for n in range(4)]
    for _ in range(2):
        await report(metering, named)
    assert await standing(pool, row) == (4, 6)
    assert lease.lease_id is not None
    kept = (HeldLease(lease.lease_id, 5),)
    stolen = await ask(leasing, row.user_id, 0, "gw-2", leases=kept)
    assert stolen.reason is LeaseRefusal.NOTHING_ASKED
    assert await standing(pool, row) == (4, 6), "a lease of another gateway"
    for _ in range(2):
        await ask(leasing, row.user_id, 0, leases=kept)
        assert await standing(pool, row) == (4, 1)
    await report(metering, [event(row.user_id, "x", lease_id=str(lease.lease_id))], "gw-2")
    assert await standing(pool, row) == (5, 1), "use of another gateway takes nothing from it"
    await report(metering, [event(row.user_id, "m4", lease_id=str(lease.lease_id))])
    assert await standing(pool, row) == (6, 0)


async def test_what_was_let_through_by_a_lease_counts_for_its_subscription(
    pool: Pool, leasing: Leasing, metering: Metering
) -> None:
    old = await subscribed(pool, 40)
    lease = await ask(leasing, old.user_id, 10)
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE subscriptions SET status = 'replaced', ended_at = $2 WHERE id = $1", old.id, NOW - DAY
        )
        new = granted(old.user_id, messages_limit=50, valid_from=NOW - DAY)
        await subscribe(connection, new)
    await report(metering, [event(old.user_id, "late", lease_id=str(lease.lease_id))])
    assert await standing(pool, old) == (1, 9)
    assert await standing(pool, new) == (0, 0)
    assert (await ask(leasing, old.user_id, 10)).subscription_id == new.id


async def test_a_vanished_gateways_leases_stay_taken_until_an_operator_frees_them(
    pool: Pool, leasing: Leasing
) -> None:
    row = await subscribed(pool, 4)
    for _ in range(4):
        assert (await ask(leasing, row.user_id, 5, "gone")).messages == 1
    assert (await ask(leasing, row.user_id, 5)).reason is LeaseRefusal.LEASED_ELSEWHERE
    actions = ReporterActions(pool=pool, clock=lambda: NOW)
    assert await actions.free("gone", uuid4(), BY) == Voided(0, 0)
    assert await actions.free("gone", None, BY) == Voided(1, 4)
    assert await actions.free("gone", None, BY) == Voided(0, 0)
    assert (await ask(leasing, row.user_id, 5)).messages == 1
    async with pool.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM audit_log WHERE action = 'leases.free'") == 4


async def test_three_gates_two_daemons_and_purchases_at_once_never_exceed_a_limit(
    pool: Pool, database_url: str
) -> None:
    """The trigger looks at every commit."""
    chance = random.Random(3)
    rows = [await subscribed(pool, 60) for _ in range(3)]
    async with Pool(Database(url=database_url)) as other:
        daemons = [Leasing(pool=one, clock=lambda: NOW) for one in (pool, other)]
        counting = [Metering(pool=one, clock=lambda: NOW, changed=lambda: None) for one in (pool, other)]

        async def gate(name: str) -> int:
            passed = 0
            for turn in range(40):
                row = chance.choice(rows)
                lease = await ask(chance.choice(daemons), row.user_id, chance.randrange(1, 20), name)
                if lease.lease_id is None:
                    continue
                use = chance.randrange(lease.messages + 1)
                named = str(lease.lease_id)
                events = [
                    event(row.user_id, f"{name}-{turn}-{n}", NOW - timedelta(seconds=1), lease_id=named)
                    for n in range(use)
                ]
                if events:
                    await report(chance.choice(counting), events, name)
                passed += use
                held = (HeldLease(lease.lease_id, use),)
                await ask(chance.choice(daemons), row.user_id, 0, name, leases=held)
            return passed

        passed = await asyncio.gather(*(gate(f"gw-{n}") for n in range(3)))
    stood = [await standing(pool, row) for row in rows]
    assert sum(used for used, _ in stood) == sum(passed)
    assert {leased for _, leased in stood} == {0}
    assert all(used <= 60 for used, _ in stood)
