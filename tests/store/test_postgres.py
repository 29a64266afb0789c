"""The pool: transactions that lost are repeated, outages are ours, and users are locked one by one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.store.errors import DatabaseAway, RetryTransaction
from kosmo_billing_daemon.store.postgres import Connection, Database, Pool, locking_users
from tests.store.conftest import Connector, Rows, somebody_waits


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with Pool(Database(url=database_url, connect_timeout=2)) as opened:
        yield opened


async def test_a_closed_pool_stays_closed(database_url: str) -> None:
    async with Pool(Database(url=database_url)) as pool, pool.connection():
        pass
    with pytest.raises(DatabaseAway, match="closed"):
        async with pool.connection():
            pass


async def test_lost_transaction_is_repeated(pool: Pool, rows: Rows) -> None:
    await rows.execute("CREATE TABLE tried (at timestamptz)")
    tries = 0

    async def work(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        await connection.execute("INSERT INTO tried VALUES (now())")
        if tries < 3:
            await connection.execute(
                "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END $$"
            )
        return tries

    assert await pool.retrying(work) == 3
    assert await rows.connection.fetchval("SELECT count(*) FROM tried") == 1


async def test_transaction_that_always_loses_is_given_up(pool: Pool) -> None:
    tries = 0

    async def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        await connection.execute(
            "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'serialization_failure'; END $$"
        )

    with pytest.raises(RetryTransaction):
        await pool.retrying(work)
    assert tries == 4


async def test_error_of_ours_rolls_back_and_is_not_repeated(pool: Pool, rows: Rows) -> None:
    await rows.execute("CREATE TABLE tried (at timestamptz)")

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO tried VALUES (now())")
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await pool.retrying(work)
    assert await rows.connection.fetchval("SELECT count(*) FROM tried") == 0


async def test_pool_heals_after_its_connections_were_cut(pool: Pool, rows: Rows) -> None:
    async with pool.connection() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")

    async def outlive_its_connection() -> None:
        async with pool.connection() as connection:
            await rows.connection.fetchval("SELECT pg_terminate_backend($1)", pid)
            await connection.execute("SELECT pg_sleep(5)")

    with pytest.raises(DatabaseAway):
        await outlive_its_connection()
    async with pool.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_cancellation_is_not_lost_with_the_connection(pool: Pool, rows: Rows) -> None:
    """Its end meets our cancellation: the driver then complains of a connection given back already."""
    cut = asyncio.Event()

    async def hold() -> None:
        async with pool.connection() as connection:
            connection.add_termination_listener(lambda _connection: cut.set())
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await rows.connection.fetchval("SELECT pg_terminate_backend($1)", pid)
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await cut.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding


async def test_broken_rule_of_the_database_is_no_outage(pool: Pool, user: UUID) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        async with pool.transaction() as connection:
            await connection.execute("INSERT INTO whitelisted_nodes VALUES ($1, 'x', NULL, now())", user)


async def test_busy_pool_is_an_outage_after_its_wait(database_url: str) -> None:
    async with Pool(Database(url=database_url, most_connections=1)) as pool, pool.connection():
        with pytest.raises(DatabaseAway):
            async with pool.connection(wait=0.05):
                pass


async def test_a_session_whose_statement_took_too_long_is_not_used_again(database_url: str) -> None:
    database = Database(url=database_url, most_connections=1, statement_timeout=0.2)
    async with Pool(database) as pool:
        async with pool.connection() as connection:
            slow = connection.get_server_pid()
        with pytest.raises(DatabaseAway, match="Timeout"):
            async with pool.transaction() as connection:
                await connection.execute("SELECT pg_sleep(30)")
        async with asyncio.timeout(5), pool.connection() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != slow


async def test_a_statement_that_was_wrong_costs_no_session(database_url: str, rows: Rows) -> None:
    await rows.execute("CREATE TABLE tried (number int PRIMARY KEY)")
    async with Pool(Database(url=database_url, most_connections=1)) as pool:
        async with pool.connection() as connection:
            first = connection.get_server_pid()
        for _ in range(3):
            with pytest.raises(asyncpg.UniqueViolationError):
                async with pool.transaction() as connection:
                    await connection.execute("INSERT INTO tried VALUES (1), (1)")
        async with pool.connection() as connection:
            assert connection.get_server_pid() == first
            assert await connection.fetchval("SELECT count(*) FROM tried") == 0


async def test_unopened_pool_closes() -> None:
    async with Pool(Database(url="postgresql://127.0.0.1:1/none")) as pool:
        with pytest.raises(DatabaseAway):
            async with pool.connection():
                pass


async def test_users_are_locked_until_the_transaction_ends(connect: Connector, user: UUID) -> None:
    first, second, watcher = await connect(), await connect(), await connect()
    other = uuid4()
    done: list[str] = []

    async def change(connection: "asyncpg.Connection[Any]") -> None:
        async with connection.transaction():
            await connection.execute(locking_users([other, user]))
            done.append("second")

    async with first.transaction():
        await first.execute(locking_users([user, other, user]))
        waiting = asyncio.create_task(change(second))
        await somebody_waits(watcher)
        done.append("first")
    await waiting
    assert done == ["first", "second"]


async def test_batches_of_users_in_any_order_do_not_deadlock(connect: Connector) -> None:
    users = [uuid4() for _ in range(40)]

    async def change(order: list[UUID]) -> None:
        connection = await connect()
        for _ in range(10):
            async with connection.transaction():
                await connection.execute(locking_users(order))

    async with asyncio.timeout(30):
        await asyncio.gather(change(users), change(users[::-1]), change(sorted(users)))


async def test_leading_never_keeps_a_user_waiting(connect: Connector, user: UUID) -> None:
    """Leader, migrations and users take advisory locks of three classes, so equal hashes do not meet."""
    leader, writer = await connect(), await connect()
    for lock_class in (1802465133, 1802466157):
        await leader.execute("SELECT pg_advisory_lock($1, hashtext($2))", lock_class, str(user))
    async with asyncio.timeout(5), writer.transaction():
        await writer.execute(locking_users([user]))


async def test_pool_knows_its_own_sessions_as_long_as_they_last(
    database_url: str, connect: Connector
) -> None:
    stranger = await connect()
    async with Pool(Database(url=database_url, connect_timeout=2)) as pool:
        async with pool.connection() as connection:
            process_id = connection.get_server_pid()
        assert pool.has_session(process_id)
        assert not pool.has_session(stranger.get_server_pid())
    assert not pool.has_session(process_id)
