"""Every statement's plan over a shop with years of rows: none reads a whole table that grows."""

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from kosmo_billing_daemon import store
from kosmo_billing_daemon.store.inspection import TABLES
from tests.store.conftest import Connector
from tests.store.test_statements import MODULES, statements
from tests.support.shop import fill

GROWING = frozenset(TABLES) - {"installation", "kosmo_billing_migrations"}

# What may read all of a table, and why: words that only this statement has, and the table.
WHOLE = {
    ("AS documents, (SELECT last_value", "entitlements"): "counts all, once per connection to the broker",
    ("nextval('entitlement_versions') AS version FROM (", "entitlements"): "everybody's, after a restore",
    ("WHERE btcpay_invoice_id = $1 OR order_id = $2 ORDER BY received_at", "webhook_deliveries"): (
        "an operator looks at one invoice; an index would cost every webhook"
    ),
    ("WHERE ($1::uuid IS NULL OR user_id = $1)", "btcpay_invoices"): "an operator lists everybody's newest",
    ("DELETE FROM usage_quarantine", "usage_quarantine"): "bounded: the newest are kept and no more",
}
DROPPED = {
    "entitlements_by_sequence",
    "webhook_deliveries_unhandled",
    "btcpay_invoices_to_check",
    "btcpay_invoices_by_user",
    "events_by_user",
    "subscriptions_by_end",
    "idempotency_keys_by_age",
}


def _nodes(plan: dict[str, Any], above: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    yield plan, above
    for below in plan.get("Plans", ()):
        yield from _nodes(below, plan["Node Type"])


async def walked(connection: "asyncpg.Connection[Any]", sql: str, partial: set[str]) -> set[str]:
    """The growing tables that a statement reads from end to end, whatever its arguments."""
    parameters = (await connection.prepare(sql)).get_parameters()
    types = ", ".join(kind.name for kind in parameters)
    # An unknown limit would be taken for a tenth of the table, and 100 of 20,000 rows are still many.
    probe = re.sub(r"LIMIT \$\d+", "LIMIT 10", sql)
    await connection.execute(f"PREPARE probe{f' ({types})' if types else ''} AS {probe}")
    arguments = f" ({', '.join(['NULL'] * len(parameters))})" if types else ""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE probe{arguments}"))
    await connection.execute("DEALLOCATE probe")
    found = set()
    for node, above in _nodes(plan[0]["Plan"]):
        is_bounded = above == "Limit" and "Filter" not in node
        is_walk = node["Node Type"] == "Seq Scan" or (
            node["Node Type"] in {"Index Scan", "Index Only Scan"}
            and "Index Cond" not in node
            and node["Index Name"] not in partial
        )
        if is_walk and not is_bounded:
            found.add(node["Relation Name"])
    return found & GROWING


async def complaints(connection: "asyncpg.Connection[Any]") -> list[str]:
    """Every statement of the store that reads a growing table from end to end without a reason."""
    partial = {
        row[0]
        for row in await connection.fetch("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '% WHERE %'")
    }
    found = []
    for name in MODULES:
        for line, sql in statements(importlib.import_module(f"{store.__name__}.{name}")):
            if not re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", sql):
                continue
            told = " ".join(sql.split())
            whole = await walked(connection, sql, partial)
            allowed = {table for words, table in WHOLE if words in told}
            found += [f"{name}.py:{line} reads all of {table}" for table in sorted(whole - allowed)]
    return found


@pytest.fixture
async def shop(connect: Connector) -> "asyncpg.Connection[Any]":
    connection = await connect()
    await fill(connection, invoices=20_000, users=4_000)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    return connection


async def test_a_plan_made_for_empty_tables_is_good_for_full_ones(connect: Connector) -> None:
    """Plans are kept: what is planned on the first day is carried out for months."""
    assert await complaints(await connect()) == []


async def test_no_statement_reads_a_growing_table_whole(shop: "asyncpg.Connection[Any]") -> None:
    assert await complaints(shop) == []
    for index in sorted(DROPPED):  # and a lost index is noticed
        await shop.execute(f"BEGIN; DROP INDEX {index}")
        assert await complaints(shop), f"nobody misses {index}"
        await shop.execute("ROLLBACK")
