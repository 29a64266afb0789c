"""An installation of v0.1 in a database of its own, and what moves it."""

import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.adoption import Adopted, AdoptionPlan, MovingIn
from kosmo_billing_daemon.store.postgres import Database

Rows = Sequence[Sequence[Any]]

SUBSCRIPTIONS = """
CREATE TABLE subscriptions (
    id serial PRIMARY KEY, user_id uuid, plan_type text, status text, valid_from timestamptz,
    valid_until timestamptz, messages_used integer, message_limit integer, note text)
"""
INVOICES = """
CREATE TABLE btcpay_invoices (
    btcpay_invoice_id text, user_id uuid, plan_type text, amount numeric, currency text, status text,
    checkout_url text, created_at timestamptz)
"""


@dataclass
class Old:
    """The old installation: its database, and one session of its superuser."""

    url: str
    connection: "asyncpg.Connection[Any]"

    def moving(self, url: str | None = None, schema: str = "public") -> MovingIn:
        database = Database(url=url or self.url, schema=schema)
        return MovingIn(database=database, catalogue=BUILT_IN, clock=utc_now, who="operator")

    async def plan(self, text: str = "") -> AdoptionPlan:
        return await self.moving().plan(tomllib.loads(text))

    async def run(self, document: Mapping[str, Any] | str = "", *, leave_unreadable: bool = False) -> Adopted:
        read = tomllib.loads(document) if isinstance(document, str) else document
        return await self.moving().run(read, leave_unreadable=leave_unreadable)

    async def undo(self) -> None:
        await self.moving().undo()

    async def fetch(self, query: str, *values: object) -> list[Any]:
        return list(await self.connection.fetch(query, *values))

    async def value(self, query: str, *values: object) -> Any:
        return await self.connection.fetchval(query, *values)

    async def execute(self, query: str, *values: object) -> str:
        return await self.connection.execute(query, *values)

    async def look(self) -> list[tuple[Any, ...]]:
        """Everything in the database that somebody could tell from how it was: names, definitions, rows."""
        seen = [tuple(row) for row in await self.fetch(_DEFINITIONS)]
        for row in await self.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_)'"
        ):
            rows = await self.fetch(f"SELECT t::text FROM {row['name']} AS t ORDER BY 1")  # noqa: S608  theirs
            seen += [(row["name"], one[0]) for one in rows]
        return sorted(seen, key=str)


_DEFINITIONS = """
SELECT n.nspname, c.relname, c.relkind::text, c.relacl::text, pg_get_userbyid(c.relowner)::text, ARRAY(
    SELECT format('%s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum) || ARRAY(
    SELECT pg_get_constraintdef(o.oid) FROM pg_constraint AS o WHERE o.conrelid = c.oid ORDER BY o.conname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname !~ '^(pg_|information_)'
UNION ALL
SELECT n.nspname, p.proname, 'function', NULL, NULL, NULL
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname !~ '^(pg_|information_)'
UNION ALL
SELECT nspname, NULL, 'schema', NULL, NULL, NULL FROM pg_namespace WHERE nspname !~ '^(pg_|information_)'
"""


@pytest.fixture
async def old(empty_database_url: str) -> AsyncIterator[Old]:
    connection = await asyncpg.connect(empty_database_url)
    yield Old(empty_database_url, connection)
    await connection.close()
