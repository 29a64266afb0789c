"""A session has what was asked for, whatever the server's defaults are; or it is not used."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from kosmo_billing_daemon.store import leader_lock
from kosmo_billing_daemon.store.errors import DatabaseAway
from kosmo_billing_daemon.store.postgres import Database, Pool
from kosmo_billing_daemon.store.session_settings import PINNED
from tests.store.conftest import Rows
from tests.support.pgbouncer import pgbouncer

DIRECTLY = "connection pooler stands between; connect to PostgreSQL directly"

HOSTILE = {
    "default_transaction_isolation": "'repeatable read'",
    "row_security": "on",
    "kosmo_billing.reminder_hours": "1",
    "standard_conforming_strings": "off",
    "timezone": "'Asia/Kolkata'",
    "statement_timeout": "'50ms'",
    "idle_in_transaction_session_timeout": "'50ms'",
    "lock_timeout": "0",
    "plan_cache_mode": "force_custom_plan",
    "enable_seqscan": "on",
    "enable_bitmapscan": "on",
    "jit": "on",
    "idle_session_timeout": "'5s'",  # these two hold until a session's first statement has set them
    "transaction_timeout": "'5s'",
    "synchronous_commit": "off",
    "search_path": "pg_catalog",
}


def name_of(database_url: str) -> str:
    return urlsplit(database_url).path.lstrip("/")


@pytest.fixture
async def settle(database_url: str) -> AsyncIterator[Rows]:
    """Plain SQL in another database of the server: what it alters counts for every new session of ours."""
    other = urlsplit(database_url)._replace(path="/postgres").geturl()
    connection = await asyncpg.connect(other)
    try:
        yield Rows(connection)
    finally:
        await connection.close()


async def in_force(database: Database, *names: str) -> dict[str, str]:
    async with Pool(database) as pool, pool.connection() as connection:
        return {name: await connection.fetchval("SELECT current_setting($1)", name) for name in names}


async def test_defaults_of_the_database_change_nothing_that_we_depend_on(
    database_url: str, settle: Rows
) -> None:
    database = Database(url=database_url)
    before = await in_force(database, *HOSTILE)
    for name, value in HOSTILE.items():
        await settle.execute(f"ALTER DATABASE {name_of(database_url)} SET {name} = {value}")
    role = f"ALTER ROLE postgres IN DATABASE {name_of(database_url)}"
    await settle.execute(f"{role} SET default_transaction_isolation = serializable")
    assert await in_force(database, *HOSTILE) == before
    assert before["default_transaction_isolation"] == "read committed"
    assert before["synchronous_commit"] == "on"
    assert {name.lower() for name in PINNED} <= set(HOSTILE)


async def test_an_operators_safer_or_local_commits_stay(database_url: str, settle: Rows) -> None:
    for chosen in ("remote_apply", "local"):
        await settle.execute(f"ALTER DATABASE {name_of(database_url)} SET synchronous_commit = {chosen}")
        assert await in_force(Database(url=database_url), "synchronous_commit") == {
            "synchronous_commit": chosen
        }


async def test_a_session_in_which_no_trigger_runs_is_not_used(database_url: str, settle: Rows) -> None:
    await settle.execute(f"ALTER DATABASE {name_of(database_url)} SET session_replication_role = replica")
    with pytest.raises(DatabaseAway, match="no trigger of ours would run") as raised:
        await Database(url=database_url).connect()
    assert "RESET session_replication_role" in raised.value.advice


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
async def test_a_pooler_that_drops_what_is_asked_for_is_named(
    database_url: str, service_directory: Path, mode: str
) -> None:
    """Seen: tables in one schema and invoices in another, and daemons that all stood by."""
    async with pgbouncer(service_directory, database_url, mode=mode) as url:
        async with Pool(Database(url=url, schema="billing")) as pool:
            with pytest.raises(DatabaseAway, match=f"{DIRECTLY}.*search_path") as raised:
                async with pool.connection():
                    pass
        assert "DATABASE_URL" in raised.value.advice


async def test_a_pooler_that_refuses_what_is_asked_for_is_named(
    database_url: str, service_directory: Path
) -> None:
    async with pgbouncer(service_directory, database_url, ignored="application_name") as url:
        with pytest.raises(DatabaseAway, match=f"{DIRECTLY}.*unsupported startup parameter"):
            await Database(url=url).connect()


async def test_a_pooler_is_noticed_even_if_it_drops_nothing(
    database_url: str, settle: Rows, service_directory: Path
) -> None:
    """The session that a leader's lock is in would be lent to others; two statements meet two of them."""
    for name, value in PINNED.items():
        await settle.execute(f"ALTER DATABASE {name_of(database_url)} SET {name} = '{value}'")
    await settle.execute("SELECT set_config('search_path', '\"public\"', false)")
    await settle.execute(f"ALTER DATABASE {name_of(database_url)} SET search_path FROM CURRENT")
    async with pgbouncer(service_directory, database_url, mode="transaction") as url:
        with pytest.raises(DatabaseAway, match=f"{DIRECTLY}$"):
            await Database(url=url).connect()
        held = await asyncpg.connect(url, statement_cache_size=0)
        try:
            with pytest.raises(DatabaseAway, match=DIRECTLY):
                await leader_lock.holds(held, "public")
        finally:
            await held.close()
