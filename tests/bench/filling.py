"""Databases of any size, and users to work with."""

from uuid import UUID

import asyncpg

from kosmo_billing_daemon.store.migrations import migrate
from tests.bench.rig import Services
from tests.support.postgres import create_database
from tests.support.shop import fill


async def filled(where: Services, name: str, *, invoices: int, users: int) -> str:
    """Create a database with so many invoices of so many users, all equally many; returns its URL."""
    url = await create_database(where.postgres, name)
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
        await fill(connection, invoices=invoices, users=users)
        # What the daemon would do at once: count, ask a BTCPay that knows none of it, call who is not there.
        for table in ("parked_reports", "lookups", "hook_deliveries", "hooks"):
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608  names of the schema
        await tidied(connection)
    finally:
        await connection.close()
    return url


async def tidied(connection: asyncpg.Connection) -> None:
    """Do what autovacuum and the checkpointer do in time, now and not in the middle of a measurement."""
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def some_users(database_url: str, number: int) -> list[UUID]:
    """Users of a filled database who have a plan, from all over its index."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT user_id FROM subscriptions WHERE status = 'active' ORDER BY random() LIMIT $1", number
        )
    finally:
        await connection.close()
    return [row["user_id"] for row in rows]
