"""What an old gateway may do through the views: read as before, count messages, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.runtime.clock import utc_now
from tests.adopt.conftest import Old
from tests.adopt.variants import NUMBERED, PLAIN, TEXTS, Customer, customers

GATEWAY = "SELECT user_id, messages_used FROM subscriptions WHERE user_id = $1 AND status = 'active'"
COUNT = PLAIN.increment


@pytest.fixture
async def role(old: Old) -> AsyncIterator[str]:
    name = f"gw_{uuid4().hex[:8]}"
    await old.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield name
    await old.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def _moved(old: Old, role: str) -> tuple["asyncpg.Connection[Any]", Customer]:
    """Move in, and connect as the gateway, whose role has on the views what it had on the tables."""
    made = customers(20, utc_now())
    await PLAIN.write(old.connection, made)
    await old.execute(f"GRANT SELECT, UPDATE ON subscriptions TO {role}")
    await old.execute(f"GRANT SELECT ON btcpay_invoices TO {role}")
    done = await old.run()
    assert role in done.roles
    await old.execute(f"ALTER ROLE {role} SET search_path = kosmo_compat, public")
    theirs = await asyncpg.connect(old.url, user=role, password="x")
    return theirs, next(one for one in made if one.is_current(utc_now()))


async def test_messages_counted_by_sql_are_usage(old: Old, role: str) -> None:
    theirs, one = await _moved(old, role)
    other = await asyncpg.connect(old.url, user=role, password="x")
    try:
        async with theirs.transaction():  # as careful gateways do
            await theirs.fetch(f"{GATEWAY} FOR UPDATE", one.uuid)
            row = await theirs.fetchrow(f"{COUNT} RETURNING messages_used, updated_at", one.uuid)
        assert row is not None
        assert row["messages_used"] == one.used + 1
        counting = [theirs.execute(COUNT, one.uuid), other.execute(COUNT, one.uuid)]
        assert await asyncio.gather(*counting) == ["UPDATE 1", "UPDATE 1"]
        shown = await theirs.fetchrow("SELECT * FROM subscriptions WHERE user_id = $1", one.uuid)
        assert shown is not None
        assert shown["messages_used"] == one.used + 3
        assert shown["updated_at"] > row["updated_at"], "what only v0.1 knows is kept too"
        assert (shown["valid_until"], shown["valid_from"]) == (one.end, one.start)
        events = await old.fetch("SELECT reporter, count, over_limit FROM usage_events")
        assert [tuple(event) for event in events] == [(f"sql:{role}", 1, False)] * 3
        assert await old.value("SELECT sum(messages) FROM usage_days WHERE user_id = $1", one.uuid) == 3
        for nobody in (uuid4(), next(c.uuid for c in customers(20, utc_now()) if not c.is_active)):
            assert await theirs.execute(COUNT, nobody) == "UPDATE 0"
        assert await old.value("SELECT count(*) FROM usage_events") == 3
    finally:
        await other.close()
        await theirs.close()


async def test_all_other_writes_are_refused_and_say_what_to_use(old: Old, role: str) -> None:
    theirs, one = await _moved(old, role)
    try:
        for statement, said in {
            "UPDATE subscriptions SET valid_until = now() WHERE user_id = $1": "valid_until of subscriptions",
            "UPDATE subscriptions SET messages_used = 0 WHERE user_id = $1": "only counted up",
            "UPDATE subscriptions SET user_id = gen_random_uuid() WHERE user_id = $1": "user_id",
        }.items():
            with pytest.raises(asyncpg.RaiseError, match=said) as refused:
                await theirs.execute(statement, one.uuid)
            assert "kosmo-billing" in str(refused.value.hint)
        for statement in (
            "INSERT INTO subscriptions (user_id) VALUES ($1)",
            "DELETE FROM subscriptions WHERE user_id = $1",
            "UPDATE btcpay_invoices SET status = 'Settled' WHERE user_id = $1",
            "UPDATE kosmo_v01.subscriptions SET messages_used = 0 WHERE user_id = $1",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await theirs.execute(statement, one.uuid)
        await old.execute("SET search_path = kosmo_compat")
        with pytest.raises(asyncpg.RaiseError, match="no INSERT on subscriptions"):
            await old.execute("INSERT INTO subscriptions (user_id) VALUES ($1)", one.uuid)
        # v0.1's own timer, for what is over: there is nothing to do.
        expire = "UPDATE subscriptions SET status = 'expired' WHERE valid_until < now() AND status = 'active'"
        assert await theirs.execute(expire) == "UPDATE 0"
    finally:
        await theirs.close()


async def test_tables_of_a_session_are_not_taken_for_ours(old: Old, role: str) -> None:
    """The trigger writes with our rights: a temporary table under one of our names would get them."""
    theirs, one = await _moved(old, role)
    try:
        for name in ("adopted_users", "usage_events", "usage_days", "outbox", "entitlements", "events"):
            await theirs.execute(
                f"CREATE TEMP TABLE {name} (user_id uuid, old_id text, users uuid[], id uuid)"
            )
        assert await theirs.execute(COUNT, one.uuid) == "UPDATE 1"
        assert await theirs.fetchval("SELECT count(*) FROM pg_temp.usage_events") == 0
        assert await old.value("SELECT count(*) FROM usage_events") == 1
    finally:
        await theirs.close()


@pytest.mark.parametrize("variant", [PLAIN, NUMBERED, TEXTS], ids=lambda variant: variant.name)
async def test_one_user_is_found_without_reading_all(variant: Any, old: Old) -> None:
    made = customers(10, utc_now())
    await variant.write(old.connection, made)
    await old.run()
    await old.execute("SET search_path = kosmo_compat, public; SET enable_seqscan = off")
    user = {"plain": f"'{made[0].uuid}'", "numbered": "7", "texts": "'x'"}[variant.name]
    query = f"EXPLAIN SELECT * FROM subscriptions WHERE user_id = {user}"  # noqa: S608  an id of the test
    plan = "\n".join(row[0] for row in await old.fetch(query))
    for table in ("subscriptions", "adopted_rows", "adopted_users"):
        assert f"Seq Scan on {table}" not in plan, plan
    found = [line for line in plan.splitlines() if "Index Cond" in line and f"= {user}" in line]
    assert len(found) == {"plain": 2, "numbered": 2, "texts": 3}[variant.name], plan


async def test_rows_that_could_not_be_read_do_not_keep_a_user_from_counting(old: Old) -> None:
    made = customers(10, utc_now())
    await TEXTS.write(old.connection, made)
    one = made[0]
    await old.execute(
        "INSERT INTO subscriptions VALUES ($1, 'Guardian', 'ACTIVE', '', 'soon')", TEXTS.user(one)
    )
    await old.run(leave_unreadable=True)
    await old.execute("SET search_path = kosmo_compat, public")
    assert len(await old.fetch("SELECT * FROM subscriptions WHERE user_id = $1", TEXTS.user(one))) == 2
    assert await old.execute(TEXTS.increment, TEXTS.user(one)) == "UPDATE 1"
