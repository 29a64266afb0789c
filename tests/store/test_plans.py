"""Every statement's plan over a shop with years of rows: none reads a whole table that grows, and no index is
there for nothing or may be lost unseen.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from kosmo_billing_daemon.store.postgres import Database
from tests.store.conftest import Connector
from tests.store.plans import EXPLAIN, GROWING, Plan, plans
from tests.support.postgres import PostgresSession
from tests.support.shop import fill

SMALL_OR_UNINDEXED = (
    "adopted_rows", "adoptions", "extensions", "hook_answers", "hook_deliveries", "leases", "outbox",
    "parked_reports", "reporter_cases", "top_ups", "usage_quarantine", "webhook_deliveries",
)  # fmt: skip
ERASED = "an operator exports or erases one user; an index would cost every row"

# What may read all of a table, and why: words that only this statement has, and the table.
WHOLE = {
    ("SELECT count(*) AS documents FROM entitlements", "entitlements"): "an operator has all repeated",
    ("AS documents, version_ceiling", "entitlements"): "counts all, once per connection to the broker",
    ("SELECT count(*) FROM entitlements WHERE version > $1", "entitlements"): "the same, after a loss",
    ("AS all_documents", "entitlements"): "counts all, once after some were cleared",
    ("WHERE btcpay_invoice_id = $1 OR order_id = $2 ORDER BY received_at", "webhook_deliveries"): (
        "an operator looks at one invoice; an index would cost every webhook"
    ),
    (
        "SELECT DISTINCT c.user_id FROM attention_cases",
        "attention_cases",
    ): "an operator's queue: all are open",
    ("AS first_end, max(", "subscriptions"): "an operator extends everybody",
    ("FROM extensions AS e WHERE all_at > $1", "extensions"): "as many as there were outages",
    ("UPDATE extensions SET reason", "extensions"): ERASED,
    (
        "FROM extended_users AS u WHERE u.extension_id = e.id",
        "extended_users",
    ): "an operator extends everybody",
    ("SELECT id, plan_type FROM quotes", "quotes"): "as many as prices there ever were",
    ("SELECT DISTINCT invoice_id FROM lookups", "lookups"): "an operator has everything open looked up",
    ("WHERE $1::text IS NULL OR status = $1", "btcpay_invoices"): "an operator lists everybody's newest",
    ("WHERE c.closed_at IS NULL ORDER BY c.opened_at, c.id", "attention_cases"): "as many as are listed",
    (
        "ON e.occurred_at >= $2 AND hook_wants",
        "events",
    ): "an operator replays; an index would cost every event",
    ("DELETE FROM usage_quarantine", "usage_quarantine"): "bounded: the newest are kept and no more",
    ("FROM recounts WHERE user_id <> ALL", "recounts"): "a queue: all that wait are due",
    ("FROM lapses WHERE user_id <> ALL", "lapses"): "a queue: all that wait are due",
    ("WHERE created_at >= $1 AND created_at < $2", "btcpay_invoices"): "an operator compares the books",
    ("sum(amount) FILTER (WHERE kind = 'received')", "btcpay_invoices"): "an operator compares the books",
    ("sum(amount) FILTER (WHERE kind = 'received')", "ledger"): "an operator compares the books",
    ("l.subscription_id) ORDER BY granted_at, id LIMIT $3", "leases"): "an operator lists what gates hold",
    ("IS NULL ORDER BY opened_at LIMIT $1", "reporter_cases"): "an operator lists the open ones",
    ("DELETE FROM console_sessions", "console_sessions"): "a few operators; old ones go at each new login",
    ("DELETE FROM console_sessions", "console_logins"): "the same",
    (
        "SELECT s.user_id, s.valid_until FROM subscriptions AS s",
        "subscriptions",
    ): "an operator lists all current ones, from an index alone; one by the end would cost every purchase",
    (
        "SELECT quote_id, count(*) AS users",
        "subscriptions",
    ): "all current ones are counted, from an index alone",
    ("FROM held FULL JOIN lately", "leases"): "what is outstanding is summed up, from the index of that",
    ("FROM held FULL JOIN lately", "parked_reports"): "bounded: no more than 10,000 are parked",
    ("INSERT INTO parked_reports", "parked_reports"): "bounded: no more than 10,000 are parked",
    ("DELETE FROM hook_answers WHERE event_id IN", "hook_answers"): "bounded: a hundred of each hook",
    (
        "WITH counted AS MATERIALIZED ( SELECT quote_id",
        "subscriptions",
    ): "counts the current ones each minute",
    ("DELETE FROM erased_users WHERE fingerprint IN", "erased_users"): "those of thirty days",
    ("WHERE $1 = ANY (users)", "outbox"): "a queue; an operator erases one user",
    ("DELETE FROM webhook_deliveries AS d USING", "webhook_deliveries"): ERASED,
    ("DELETE FROM leases WHERE user_id", "leases"): ERASED,
    ("UPDATE audit_log SET subject = regexp_replace", "audit_log"): ERASED,
    ("UPDATE attention_cases SET detail = regexp_replace", "attention_cases"): ERASED,
    ("UPDATE reporter_cases SET detail = regexp_replace", "reporter_cases"): ERASED,
    ("UPDATE usage_quarantine SET reason", "usage_quarantine"): ERASED,
    ("UPDATE whitelisted_nodes SET label", "whitelisted_nodes"): ERASED,
    ("UPDATE parked_reports SET payload", "parked_reports"): ERASED,
    **{
        ("WHERE sums.booked <> sums.should", table): "an operator compares the books"
        for table in ("quotes", "refunds", "subscriptions")
    },
    **{(") AS held", table): ERASED for table in SMALL_OR_UNINDEXED},
    **{
        ("SELECT NOT EXISTS (SELECT FROM subscriptions)", table): "asked once, when v0.1 moves in"
        for table in ("subscriptions", "btcpay_invoices", "whitelisted_nodes", "entitlements")
    },
    **{
        ("SELECT 'a message of user '", table): "asked when an operator undoes the move of v0.1"
        for table in GROWING
    },
    ("FROM adoptions ORDER BY id LIMIT 1", "adoptions"): "one row",
}

# Indexes without which no statement reads a whole table, and what they are for: they must be there.
NAMED = {
    "subscriptions_one_per_invoice": "R1: one effect per invoice, for ever",
    "subscriptions_one_current_per_user": "R12: at most one current subscription per user",
    "usage_events_counted_once": "else all messages of a user would be read for each new one",
    "events_pkey": "two are two",
    "audit_log_pkey": "two are two",
    "one_parked_report_per_id": "a report that is repeated is parked once",
    "parked_reports_pkey": "two are two",
    "recounts_pkey": "a user waits once",
    "lapses_pkey": "a user waits once",
    "ledger_pkey": "two are two",
    "refunds_booked_once": "a refund made in BTCPay is booked once",
    "refunds_one_open_per_invoice": "a refund that is ordered twice is made once",
    "attention_cases_one_negative_balance": "a user owes once in each currency",
    "inquiries_pkey": "an unknown order or a refund is asked about once",
    "usage_quarantine_pkey": "two are two",
    "reporter_cases_one_open": "a reporter has one open case",
    "reporter_cases_pkey": "two are two",
    "installation_pkey": "one row",
    "hooks_pkey": "a few rows",
    "adoptions_pkey": "one row",
    "adopted_users_pkey": "a user has one old id",
    "adopted_users_id_is_one_user": "an old id is one user",
    "adopted_rows_by_id": "the views ask for the old row of each of ours",
    "hooks_one_per_url": "a few rows",
    "kosmo_billing_migrations_pkey": "each is applied once",
    "figures_pkey": "each sum is there once",
    "pseudonyms_pkey": "whether a document is published is asked at each change",
    "erased_users_pkey": "whether a user was erased is asked at each change",
}

DEARER = 2.0  # times what the planner expects with the index

_INDEXES = """
SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS of, i.indisunique AS is_unique,
    (SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute
     WHERE attrelid = i.indrelid AND attnum = ANY (i.indkey) AND attnum > 0) AS columns,
    coalesce(pg_get_expr(i.indpred, i.indrelid), 'true') AS rows, c.conname AS constraint
FROM pg_index AS i
    JOIN pg_class AS k ON k.oid = i.indrelid AND k.relnamespace = 'public'::regnamespace
    LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
ORDER BY 1
"""


def complaints(found: Mapping[str, Plan], with_all: Mapping[str, Plan] | None = None) -> list[str]:
    """Every statement that reads a growing table from end to end without a reason, or became much dearer."""
    wrong = []
    for place, plan in found.items():
        told = " ".join(plan.sql.split())
        allowed = {table for words, table in WHOLE if words in told}
        wrong += [f"{place} reads all of {table}" for table in sorted(plan.whole - allowed)]
        if with_all is not None and plan.cost > DEARER * with_all[place].cost:
            wrong.append(f"{place} costs {plan.cost:.0f} instead of {with_all[place].cost:.0f}")
    return wrong


async def refusal(connection: "asyncpg.Connection[Any]", index: asyncpg.Record) -> str | None:
    """Write one row's values of a unique index into another row; returns which index refuses that."""
    table, columns, rows = index["of"], ", ".join(index["columns"]), index["rows"]
    one = f"SELECT %s FROM {table} WHERE {rows} ORDER BY ctid LIMIT 1"  # noqa: S608  names of the schema
    other = f"SELECT ctid FROM {table} WHERE {rows} ORDER BY ctid OFFSET 1 LIMIT 1"  # noqa: S608  the same
    try:
        async with connection.transaction():
            await connection.execute(
                "SET LOCAL session_replication_role = replica"
            )  # no trigger, no reference
            for column in index["columns"]:
                await connection.execute(
                    f"ALTER TABLE {table} ALTER {column} DROP IDENTITY IF EXISTS,"
                    f" ALTER {column} DROP EXPRESSION IF EXISTS"
                )
            done = await connection.execute(
                f"UPDATE {table} SET ({columns}) = ({one % columns}) WHERE ctid = ({other})"  # noqa: S608  the same
            )
            if done == "UPDATE 0":  # there is only one
                await connection.execute(f"INSERT INTO {table} {one % '*'}")
    except asyncpg.UniqueViolationError as error:
        return str(error.as_dict()["constraint_name"])
    return None


@asynccontextmanager
async def without(connection: "asyncpg.Connection[Any]", index: asyncpg.Record) -> AsyncIterator[None]:
    """The shop as it would be if the index were lost."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        if index["constraint"] is None:
            await connection.execute(f"DROP INDEX {index['name']}")
        else:
            await connection.execute(
                f"ALTER TABLE {index['of']} DROP CONSTRAINT {index['constraint']} CASCADE"
            )
        yield
    finally:
        await transaction.rollback()


@pytest.fixture(scope="module")
def full_database_url(_postgres_session: PostgresSession, template_database: str) -> Iterator[str]:
    """The URL of a shop's database after years."""

    async def fill_it(url: str) -> None:
        connection = await Database(url=url).connect()
        try:
            await fill(connection, invoices=20_000, users=4_000)
        finally:
            await connection.close()

    with _postgres_session.database(template_database) as url:
        _postgres_session.run(fill_it(url))
        yield url


@pytest.fixture
async def shop(full_database_url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection to it; whatever a test changes is rolled back."""
    connector = Connector(full_database_url)
    async with connector.stack:
        connection = await connector()
        await connection.execute(EXPLAIN)
        yield connection


async def test_a_plan_made_for_empty_tables_is_good_for_full_ones(connect: Connector) -> None:
    """Plans are kept: what is planned on the first day is carried out for months."""
    connection = await connect()
    await connection.execute(EXPLAIN)
    assert complaints(await plans(connection)) == []


async def test_no_statement_reads_a_growing_table_whole(shop: "asyncpg.Connection[Any]") -> None:
    assert complaints(await plans(shop)) == []


async def test_every_index_would_be_missed(shop: "asyncpg.Connection[Any]") -> None:
    """By a statement that reads more, or by a rule that nothing else keeps; what nobody misses is useless."""
    # As our sessions are, the planner would take any other index for a lost one, from end to end.
    await shop.execute("SET enable_seqscan = on; SET enable_bitmapscan = on")
    with_all = await plans(shop)
    indexes = await shop.fetch(_INDEXES)
    assert NAMED.keys() <= {index["name"] for index in indexes}
    for index in indexes:
        name = index["name"]
        assert not index["is_unique"] or await refusal(shop, index) == name
        async with without(shop, index):
            found = await plans(shop, index["of"])
            assert complaints(found) or name in NAMED, f"{name} may be lost unseen"
            assert index["is_unique"] or complaints(found, with_all), f"nobody misses {name}"
            assert not index["is_unique"] or await refusal(shop, index) is None, f"{name} is there twice"
