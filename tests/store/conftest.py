"""Connections to a migrated database, and rows written in plain SQL as the platform's gateway writes them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.store.postgres import Database
from tests.support.quotes import WANDERER, quoting

_QUOTE = "'wanderer', 5, 'USD', '30 days', 50, $5, '{}'"
SUBSCRIBE = quoting(
    _QUOTE,
    """
INSERT INTO subscriptions (
    id, user_id, invoice_id, source, quote_id, status, valid_from, valid_until, ended_at, messages_limit,
    carried_rule, carried_time, carried_messages)
VALUES ($1, $2, $3, $4, :quote, $6, '2026-03-01Z', '2026-03-31Z',
    CASE WHEN $6 IN ('active', 'grace') THEN NULL ELSE '2026-03-02Z'::timestamptz END, $7, 'fresh', '0', 0)
""",
)

RESERVE = quoting(
    WANDERER,
    """
INSERT INTO btcpay_invoices (id, user_id, quote_id, status, created_at)
VALUES ($1, $2, :quote, 'reserved', '2026-03-01Z')
""",
)


@dataclass(frozen=True)
class Rows:
    """Plain SQL on one connection."""

    connection: "asyncpg.Connection[Any]"

    async def subscribe(
        self,
        user_id: UUID,
        *,
        status: str = "active",
        scope: str = "any_node",
        limit: int | None = 50,
        invoice_id: UUID | None = None,
        source: str = "grant",
    ) -> UUID:
        row_id = uuid4()
        await self.connection.execute(SUBSCRIBE, row_id, user_id, invoice_id, source, scope, status, limit)
        return row_id

    async def reserve(self, user_id: UUID) -> UUID:
        row_id = uuid4()
        await self.connection.execute(RESERVE, row_id, user_id)
        return row_id

    async def execute(self, sql: str, *arguments: Any) -> None:
        await self.connection.execute(sql, *arguments)

    async def versions(self, user_id: UUID) -> tuple[int, int]:
        """The version of a user, and how often a change of rights was queued; zeros without a document."""
        row = await self.connection.fetchrow(
            "SELECT version, ("
            "    SELECT count(*) FROM outbox WHERE kind = 'rights' AND $1 = ANY (users)) AS rights"
            " FROM entitlements WHERE user_id = $1",
            user_id,
        )
        return (0, 0) if row is None else (row["version"], row["rights"])


class Connector:
    """Opens connections of one test, which close with it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stack = AsyncExitStack()

    async def __call__(self, schema: str = "public") -> "asyncpg.Connection[Any]":
        connection = await Database(url=self._url, schema=schema).connect()
        self.stack.push_async_callback(connection.close)
        return connection


async def somebody_waits(connection: "asyncpg.Connection[Any]") -> None:
    """Return when a session waits for an advisory lock of this database; fail after some seconds."""
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    deadline = time.monotonic() + 10
    while not await connection.fetchval(waiting):
        assert time.monotonic() < deadline, "nobody waits"
        await asyncio.sleep(0.01)


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connector]:
    connector = Connector(database_url)
    async with connector.stack:
        yield connector


@pytest.fixture
async def rows(connect: Connector) -> Rows:
    return Rows(await connect())


@pytest.fixture
def user() -> UUID:
    return uuid4()
