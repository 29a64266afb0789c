"""The schema comes forward once, whoever asks how often, and never over what is not ours."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.store.errors import DatabaseAway
from kosmo_billing_daemon.store.migrations import LOCK, OURS, available, migrate, pending
from kosmo_billing_daemon.store.postgres import Database
from tests.store.conftest import Connector, somebody_waits

NAMES = tuple(migration.name for migration in available())


@pytest.fixture
async def connect(empty_database_url: str) -> AsyncIterator[Connector]:
    connector = Connector(empty_database_url)
    async with connector.stack:
        yield connector


async def tables(connect: Connector, schema: str = "public") -> set[str]:
    connection = await connect()
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    return {row["tablename"] for row in rows}


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [migration.number for migration in available()] == list(range(1, len(NAMES) + 1))


async def test_second_run_applies_nothing(connect: Connector) -> None:
    connection = await connect()
    assert await pending(connection) == NAMES
    assert await migrate(connection) == NAMES
    assert await migrate(connection) == ()
    assert await pending(connection) == ()
    assert set(OURS) <= await tables(connect)


async def test_concurrent_runs_apply_each_once(connect: Connector) -> None:
    connections = [await connect() for _ in range(4)]
    done = await asyncio.gather(*(migrate(connection) for connection in connections))
    assert sorted(done) == [(), (), (), NAMES]


async def test_foreign_table_is_refused_and_nothing_changed(connect: Connector) -> None:
    connection = await connect()
    await connection.execute("CREATE TABLE subscriptions (id int); INSERT INTO subscriptions VALUES (7)")
    with pytest.raises(Misconfigured, match="subscriptions, not made by kosmo-billing") as refused:
        await migrate(connection)
    assert "DATABASE_SCHEMA" in str(refused.value)
    assert await tables(connect) == {"subscriptions"}
    assert await connection.fetchval("SELECT id FROM subscriptions") == 7


async def test_foreign_view_is_refused_too(connect: Connector) -> None:
    connection = await connect()
    await connection.execute("CREATE VIEW events AS SELECT 1 AS one")
    with pytest.raises(Misconfigured, match="events"):
        await migrate(connection)
    assert await tables(connect) == set()


@pytest.mark.parametrize("schema", ["billing", 'odd "Schema"'])
async def test_schema_of_its_own_leaves_the_others_alone(connect: Connector, schema: str) -> None:
    public = await connect()
    await public.execute("CREATE TABLE subscriptions (id int)")
    connection = await connect(schema)
    assert await migrate(connection, schema) == NAMES
    assert await migrate(connection, schema) == ()
    assert set(OURS) <= await tables(connect, schema)
    assert await tables(connect) == {"subscriptions"}


async def test_triggers_of_a_schema_write_there_whoever_calls(connect: Connector) -> None:
    """A gateway's session has another search path than ours."""
    connection = await connect("billing")
    await migrate(connection, "billing")
    public = await connect()
    await public.execute(
        "WITH quoted AS (INSERT INTO billing.quotes (plan_type, amount, currency, period, scope, features)"
        " VALUES ('x', 1, 'USD', '1 day', 'any_node', '{}') RETURNING id)"
        " INSERT INTO billing.subscriptions (id, user_id, quote_id, source, status, valid_from, valid_until,"
        " carried_rule, carried_time, carried_messages) SELECT gen_random_uuid(), gen_random_uuid(), id,"
        " 'grant', 'active', now(), now() + interval '1 day', 'fresh', '0', 0 FROM quoted"
    )
    assert await public.fetchval("SELECT count(*) FROM billing.entitlements") == 1


async def test_changed_migration_is_refused(connect: Connector) -> None:
    connection = await connect()
    await migrate(connection)
    await connection.execute("UPDATE kosmo_billing_migrations SET checksum = 'other' WHERE number = 1")
    with pytest.raises(Misconfigured, match="was applied with another text"):
        await migrate(connection)


async def test_newer_database_is_refused(connect: Connector) -> None:
    connection = await connect()
    await migrate(connection)
    await connection.execute("INSERT INTO kosmo_billing_migrations VALUES (9999, 'from_the_future', 'x')")
    with pytest.raises(Misconfigured, match="9999 from_the_future, which this version does not know"):
        await migrate(connection)


async def test_database_that_goes_away_meanwhile_is_an_outage(connect: Connector) -> None:
    connection, killer = await connect(), await connect()
    await killer.execute("SELECT pg_advisory_lock($1, hashtext('migrations of public'))", LOCK)
    waiting = asyncio.create_task(migrate(connection))
    await somebody_waits(killer)
    await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    with pytest.raises(DatabaseAway):
        await waiting


async def test_database_that_is_not_there_is_an_outage() -> None:
    with pytest.raises(DatabaseAway):
        await Database(url="postgresql://127.0.0.1:1/none", connect_timeout=1).connect()
