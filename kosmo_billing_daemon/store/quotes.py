"""Quotes: plans as they were sold. A row is never changed, and its id follows from its content.

So a process remembers every quote that it has read, whatever database it came from.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

PLACE = 2
"""Of ``quote_id`` among the columns of invoices and of subscriptions."""

_known: dict[UUID, Plan] = {}


def plan(quote_id: UUID) -> Plan:
    """Return a plan that was learned."""
    return _known[quote_id]


_COLUMNS = Columns(
    ("plan_type", "text", "plan_type"),
    ("amount", "numeric", "price.amount"),
    ("currency", "text", "price.currency"),
    ("period", "interval", "period"),
    ("quota", "bigint", "quota"),
    ("scope", "text", "scope"),
    ("features", "text", lambda plan: ",".join(plan.features)),
    ("fits", "text", lambda plan: ",".join(plan.fits)),
)

_LOAD = f"SELECT id, {_COLUMNS} FROM quotes WHERE id = ANY ($1::uuid[])"


async def learn(
    connection: Connection, rows: Sequence[Any], places: Iterable[int] = (PLACE,)
) -> Sequence[Any]:
    """Return the rows, once the quotes are known whose ids are at these places of each."""
    for place in places:
        unknown = {row[place] for row in rows}.difference(_known)
        unknown.discard(None)
        if unknown:
            for row in await connection.fetch(_LOAD, list(unknown)):
                _known[row["id"]] = Plan(
                    plan_type=row["plan_type"],
                    price=Price(row["amount"], row["currency"]),
                    period=row["period"],
                    quota=row["quota"],
                    scope=Scope(row["scope"]),
                    features=tuple(row["features"]),
                    fits=tuple(row["fits"]),
                )
    return rows


_SOLD = "SELECT id, plan_type FROM quotes WHERE fits = '{}' ORDER BY plan_type, id"


async def load_sold(connection: Connection) -> dict[str, list[UUID]]:
    """Return each plan that was ever sold or granted, with its quotes."""
    found: dict[str, list[UUID]] = {}
    for row in await connection.fetch(_SOLD):
        found.setdefault(row["plan_type"], []).append(row["id"])
    return found


_SAVE = f"""
INSERT INTO quotes ({_COLUMNS})
SELECT plan_type, amount, currency, period, quota, scope, string_to_array(features, ','),
    string_to_array(fits, ',')
FROM unnest({_COLUMNS.parameters}) AS row ({_COLUMNS})
ON CONFLICT (id) DO NOTHING
"""


def save_statement(plans: Iterable[Plan]) -> Statement | None:
    """Have these quotes in the database, with what refers to them."""
    sold = sorted(set(plans), key=lambda each: each.quote_id)
    return Statement(_SAVE, _COLUMNS.values(sold)) if sold else None
