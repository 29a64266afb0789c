"""How PostgreSQL would carry out each statement of the store, whatever its arguments are."""

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg

from kosmo_billing_daemon import store
from kosmo_billing_daemon.store.migrations import objects
from tests.store.test_statements import MODULES, statements

GROWING = frozenset(objects("TABLE")) - {"installation", "figures", "kosmo_billing_migrations", "hooks"}

# Above a part of a table that holds only what waits, or is open: all of that is read for each of a few.
JOINED = {"Hash", "Hash Join", "Materialize", "Merge Join", "Nested Loop", "Sort"}

# NULL for ON CONFLICT without the index that it names.
EXPLAIN = """
CREATE FUNCTION pg_temp.explain(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE told text;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO told;
    RETURN told;
EXCEPTION WHEN invalid_column_reference THEN RETURN NULL;
END
$$
"""
_EXPLAIN_ALL = (
    "SELECT pg_temp.explain(statement) FROM unnest($1::text[]) WITH ORDINALITY AS s (statement, n) ORDER BY n"
)


@dataclass(frozen=True)
class Plan:
    """How a statement is done: the growing tables it reads from end to end, and what that costs."""

    sql: str
    whole: frozenset[str] = frozenset()
    cost: float = float("inf")


def _nodes(plan: dict[str, Any], above: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    yield plan, above
    for below in plan.get("Plans", ()):
        yield from _nodes(below, plan["Node Type"])


@cache
def _all_statements() -> dict[str, str]:
    """Every statement of the store that has a plan, by where it stands."""
    return {
        f"{name}.py:{place}": sql
        for name in MODULES
        for place, sql in statements(importlib.import_module(f"{store.__name__}.{name}"))
        if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", sql)
    }


def _probe(sql: str) -> str:
    """The statement with a small limit, and parameters without a gap.

    An unknown limit would be taken for a tenth of the table. 10 of these 20,000 rows are as 1,000 of two
    million: with that limit and a million invoices the plans are the same (seen).
    """
    limited = re.sub(r"LIMIT \$\d+", "LIMIT 10", sql)
    numbers = sorted({int(number) for number in re.findall(r"\$(\d+)", limited)})
    return re.sub(r"\$(\d+)", lambda found: f"${numbers.index(int(found[1])) + 1}", limited)


def _plan(sql: str, told: str | None, partial: set[str]) -> Plan:
    """Read what EXPLAIN told; what the schema does not allow costs infinitely much."""
    if told is None:
        return Plan(sql)
    (root,) = json.loads(told)
    whole = set()
    for node, above in _nodes(root["Plan"]):
        is_bounded = above == "Limit" and "Filter" not in node
        is_walk = node["Node Type"] == "Seq Scan" or (
            node["Node Type"] in {"Index Scan", "Index Only Scan"}
            and "Index Cond" not in node
            and (node["Index Name"] not in partial or above in JOINED)
        )
        if is_walk and not is_bounded:
            whole.add(node["Relation Name"])
    return Plan(sql, frozenset(whole & GROWING), root["Plan"]["Total Cost"])


async def plans(connection: "asyncpg.Connection[Any]", words: str = "") -> dict[str, Plan]:
    """The plan of every statement of the store that names ``words``, by where it stands."""
    partial = {
        row[0]
        for row in await connection.fetch("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '% WHERE %'")
    }
    sent = {place: sql for place, sql in _all_statements().items() if words in sql}
    told = await connection.fetch(_EXPLAIN_ALL, [_probe(sql) for sql in sent.values()])
    return {
        place: _plan(sql, plan, partial) for (place, sql), (plan,) in zip(sent.items(), told, strict=True)
    }
