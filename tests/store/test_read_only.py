"""A database that takes no writes for a while: no session is stuck to it, and another host is taken."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from kosmo_billing_daemon.store.errors import ReadOnly
from kosmo_billing_daemon.store.postgres import Connection, Database, Pool
from tests.store.conftest import Rows

MOST = 3


@pytest.fixture
async def settle(database_url: str) -> AsyncIterator[Rows]:
    """Plain SQL in another database of the server, which stays writable."""
    other = urlsplit(database_url)._replace(path="/postgres").geturl()
    connection = await asyncpg.connect(other)
    try:
        yield Rows(connection)
    finally:
        await connection.close()


async def use_all(pool: Pool) -> set[int]:
    """Read in every session that the pool may open, all lent at once; returns the server's processes."""
    seen: set[int] = set()

    async def deeper(left: int) -> None:
        if left:
            async with pool.connection() as connection:
                seen.add(await connection.fetchval("SELECT pg_backend_pid()"))
                await deeper(left - 1)

    await deeper(MOST)
    return seen


async def write(pool: Pool) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO audit_log (at, who, action, subject, reason) VALUES (now(), 'a', 'b', 'c', 'd')"
        )

    await pool.retrying(work)


async def test_what_met_a_read_only_database_is_no_obstacle_once_it_takes_writes_again(
    database_url: str, settle: Rows
) -> None:
    """Seen: a failure for each session of the pool, up to an hour after the database was well again."""
    name = urlsplit(database_url).path.lstrip("/")
    async with Pool(Database(url=database_url, most_connections=MOST)) as pool:
        await settle.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await use_all(pool)  # what shows users their rights goes on
        with pytest.raises(ReadOnly):
            await write(pool)
        await use_all(pool)
        await settle.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        for _ in range(MOST):
            await write(pool)
        kept = await use_all(pool)
        assert await use_all(pool) == kept


async def test_a_refused_write_ends_every_idle_session(database_url: str) -> None:
    """As by a cloud's failover, of which the sessions before it know nothing."""
    async with Pool(Database(url=database_url, most_connections=MOST)) as pool:
        before = await use_all(pool)
        with pytest.raises(ReadOnly):
            async with pool.transaction("SET TRANSACTION READ ONLY") as connection:
                await connection.execute("DELETE FROM audit_log")
        assert not before & await use_all(pool)


async def test_of_several_hosts_the_one_that_takes_writes_is_used_until_another_does(
    database_url: str, service_directory: Path
) -> None:
    async with EmbeddedPostgres(service_directory / "postgres", durable=False) as standby:
        await standby.stop()
        (standby.data_dir / "cluster" / "standby.signal").touch()
        await standby.start()
        alone = Database(url=standby.url, most_connections=1)
        primary, other = urlsplit(database_url), urlsplit(standby.url)
        both = f"postgresql://{other.netloc},{primary.hostname}:{primary.port}/postgres"
        async with Pool(alone) as pool:
            with pytest.raises(ReadOnly):
                async with pool.transaction() as connection:
                    await connection.execute("CREATE TABLE t ()")
            with pytest.raises(ReadOnly):
                await alone.connect(writable=True)
            with pytest.raises(Exception, match="password authentication failed"):
                await Database(url=both).connect()  # it went on to the primary, which has another password
            either = await Database(url=f"{both}?target_session_attrs=any").connect()
            assert await either.fetchval("SELECT pg_is_in_recovery()")
            async with pool.connection() as connection:
                promoted = await connection.fetchval("SELECT pg_promote()")
            assert promoted
            async with pool.transaction() as connection:
                await connection.execute("CREATE TABLE t ()")
            await either.close()
            await (await Database(url=both).connect(writable=True)).close()
