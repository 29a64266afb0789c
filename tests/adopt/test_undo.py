"""The way back: exactly as it was, until something has happened of which the old tables know nothing."""

import re

import pytest

from kosmo_billing_daemon.errors import Conflict, NotFound
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store import leader_lock
from kosmo_billing_daemon.store.adoptions import forget_statement
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.adopt.conftest import Old
from tests.adopt.variants import ENUMS, HOSTILE, NUMBERED, PLAIN, TEXTS, Variant, customers

EFFECTS = {
    "a message of user": "INSERT INTO usage_events (user_id, message_id, reporter, count, over_limit,"
    " sent_at, received_at) VALUES (gen_random_uuid(), 'm', 'gateway', 1, false, now(), now())",
    "messages of user": "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE status = 'active'",
    "operator did: grant": "INSERT INTO audit_log (at, who, action, subject, reason)"
    " VALUES (now(), 'operator', 'grant', 'x', 'x')",
    "an invoice of user": "INSERT INTO btcpay_invoices (id, user_id, quote_id, status, created_at)"
    " SELECT gen_random_uuid(), gen_random_uuid(), id, 'reserved', now() FROM quotes LIMIT 1",
    "node !01020304 was listed": "INSERT INTO whitelisted_nodes"
    " VALUES (gen_random_uuid(), '!01020304', NULL, now())",
    "chose whether to renew": "INSERT INTO auto_renewals VALUES (gen_random_uuid(), true, now())",
}


@pytest.mark.parametrize("variant", [ENUMS, HOSTILE], ids=lambda variant: variant.name)
async def test_undone_at_once_everything_is_as_it_was(variant: Variant, old: Old) -> None:
    """Foreign keys, views, defaults, sequences, grants and owners included; and it can be done again."""
    await variant.write(old.connection, customers(10, utc_now()))
    before = await old.look()
    for _ in range(2):
        await old.run(variant.map)
        assert await old.look() != before
        await old.undo()
        assert await old.look() == before
    with pytest.raises(NotFound, match="nothing was moved in"):
        await old.undo()


async def test_what_happened_since_forbids_going_back_and_is_named(old: Old) -> None:
    await PLAIN.write(old.connection, customers(10, utc_now()))
    await old.run()
    with pytest.raises(Conflict, match="moved in already"):
        await old.run()
    for named, statement in EFFECTS.items():
        await old.execute(statement)
        with pytest.raises(Conflict, match=re.escape(named)):
            await old.undo()
        await _take_back(old)
    await old.undo()


async def _take_back(old: Old) -> None:
    await old.execute(
        "DELETE FROM usage_events; DELETE FROM whitelisted_nodes; DELETE FROM auto_renewals;"
        " DELETE FROM audit_log WHERE action <> 'adopt';"
        " DELETE FROM btcpay_invoices WHERE status = 'reserved';"
        " UPDATE subscriptions AS s SET messages_used = a.messages_used FROM adopted_rows AS a"
        " WHERE a.id = s.id"
    )


async def test_time_alone_is_no_effect(old: Old) -> None:
    """A plan that ends is over in the old table too."""
    await PLAIN.write(old.connection, customers(10, utc_now()))
    before = await old.look()
    await old.run()
    await old.execute(
        "UPDATE subscriptions SET status = 'expired', ended_at = valid_until WHERE status = 'active'"
    )
    await old.undo()
    assert await old.look() == before


async def test_a_daemon_that_runs_must_be_stopped_first(old: Old) -> None:
    await PLAIN.write(old.connection, customers(2, utc_now()))
    await old.run()
    leader = await Database(url=old.url).connect()
    assert await leader_lock.try_lock(leader, "public")
    with pytest.raises(Conflict, match="systemctl stop"):
        await old.undo()
    await leader.close()
    await old.undo()


@pytest.mark.parametrize("variant", [NUMBERED, TEXTS, HOSTILE], ids=lambda variant: variant.name)
async def test_a_user_who_is_erased_is_in_no_old_table_either(variant: Variant, old: Old) -> None:
    """What our own tables have of the user is erased by whoever calls this."""
    made = customers(10, utc_now())
    await variant.write(old.connection, made)
    await old.run(variant.map)
    one = made[1]  # with an invoice
    async with Pool(Database(url=old.url)) as pool, pool.transaction() as connection:
        await combine(connection, [forget_statement(variant.uuid(one))])
    for table in ("adopted_rows", "adopted_users", *await _moved(old)):
        rows = await old.fetch(f"SELECT t::text AS said FROM {table} AS t")  # noqa: S608  names of the catalogue
        assert rows, table
        assert not [row for row in rows if str(variant.user(one)) in row["said"]], table


async def _moved(old: Old) -> list[str]:
    return [
        row["name"]
        for row in await old.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class AS c"
            " WHERE relnamespace = 'kosmo_v01'::regnamespace AND relkind = 'r' AND relname <> 'nodes'"
        )
    ]
