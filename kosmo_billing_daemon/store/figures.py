"""Sums of the business for metrics and the console: what was appended is added; no table that grows is read.

The ledger and the events are read once each, in the order of their ids. An id is drawn before its commit, so
reading goes up to an id only when every transaction has ended that may have drawn a smaller one.
"""

from datetime import date
from decimal import Decimal
from typing import Final

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record
class Appended:
    """The newest entry and event, and a transaction number above those of all who drew smaller ids."""

    entry: int
    event: int
    before: int


_APPENDED = """
SELECT coalesce((SELECT max(id) FROM ledger), 0) AS entry, coalesce((SELECT max(id) FROM events), 0) AS event,
    pg_current_xact_id()::text::bigint AS before
"""


async def load_appended(connection: Connection) -> Appended:
    """Return how far there is something to add."""
    (row,) = await connection.fetch(_APPENDED)
    return Appended(**row)


_HAS_ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1"


async def has_ended(connection: Connection, number: int) -> bool:
    """Say whether all transactions up to a number have ended."""
    return bool(await connection.fetchval(_HAS_ENDED, number))


async def lock(connection: Connection) -> None:
    """Keep others from adding the same, until the transaction ends."""
    await connection.execute("SELECT FROM figures WHERE name = 'position' ORDER BY label FOR UPDATE")


_ADD = """
WITH new AS MATERIALIZED (
    {rows} WHERE id > (SELECT value FROM figures WHERE name = 'position' AND label = '{table}')::bigint
        AND id <= $1 ORDER BY id LIMIT $2
), saved AS (
    INSERT INTO figures AS f (name, label, value) {sums}
    ON CONFLICT (name, label) DO UPDATE SET value = f.value + EXCLUDED.value
){more}, moved AS (
    UPDATE figures SET value = greatest(value, CASE
        WHEN (SELECT count(*) FROM new) < $2 THEN $1 ELSE (SELECT max(id) FROM new) END)
    WHERE name = 'position' AND label = '{table}'
)
SELECT count(*) FROM new
"""
_TAKEN = """
SELECT (l.at AT TIME ZONE 'UTC')::date AS day, coalesce(p.plan_type, '') AS plan_type, l.currency,
    sum(l.amount) AS amount, count(*) FILTER (WHERE l.amount > 0) AS payments
FROM {entries} AS l LEFT JOIN LATERAL (
    SELECT plan_type FROM quotes
    WHERE id = (SELECT quote_id FROM btcpay_invoices WHERE id = l.invoice_id) OFFSET 0
) AS p ON true
WHERE l.kind = 'received' GROUP BY 1, 2, 3
"""
_ADD_ENTRIES = _ADD.format(
    table="ledger",
    rows="SELECT id, kind, currency, amount, at, invoice_id FROM ledger",
    more=f""", taken AS (
    INSERT INTO takings AS t (day, plan_type, currency, amount, payments) {_TAKEN.format(entries="new")}
    ON CONFLICT (day, plan_type, currency) DO UPDATE
        SET amount = t.amount + EXCLUDED.amount, payments = t.payments + EXCLUDED.payments
), days AS (
    INSERT INTO ledger_days AS d (day, kind, currency, amount, entries, first_id, last_id)
    SELECT (at AT TIME ZONE 'UTC')::date, kind, currency, sum(amount), count(*), min(id), max(id)
    FROM new GROUP BY 1, 2, 3
    ON CONFLICT (day, kind, currency) DO UPDATE
        SET amount = d.amount + EXCLUDED.amount, entries = d.entries + EXCLUDED.entries,
            first_id = least(d.first_id, EXCLUDED.first_id), last_id = greatest(d.last_id, EXCLUDED.last_id)
)""",
    sums="""
    SELECT 'credit', currency, sum(amount) FROM new GROUP BY currency
    UNION ALL SELECT 'settled', currency, sum(amount) FROM new WHERE kind = 'received' GROUP BY currency""",
)
_ADD_EVENTS = _ADD.format(
    table="events",
    rows="SELECT id, type FROM events",
    more="",
    sums="""
    SELECT 'invoices', split_part(type, '.', 2), count(*) FROM new
    WHERE type IN ('invoice.created', 'invoice.settled', 'invoice.expired') GROUP BY type""",
)


async def add_entries(connection: Connection, up_to: int, limit: int) -> int:
    """Add the next entries of the ledger, up to an id; returns how many."""
    return int(await connection.fetchval(_ADD_ENTRIES, up_to, limit))


async def add_events(connection: Connection, up_to: int, limit: int) -> int:
    """Add the next events, up to an id; returns how many."""
    return int(await connection.fetchval(_ADD_EVENTS, up_to, limit))


# By an index alone, which says the plan of each current subscription.
_COUNT_ACTIVE = """
WITH counted AS MATERIALIZED (
    SELECT quote_id, count(*) AS number FROM subscriptions WHERE status IN ('active', 'grace')
    GROUP BY quote_id
), plans AS (
    SELECT q.plan_type, sum(c.number) AS number
    FROM counted AS c, LATERAL (SELECT plan_type FROM quotes WHERE id = c.quote_id OFFSET 0) AS q GROUP BY 1
)
INSERT INTO figures AS f (name, label, value)
SELECT 'active', plan_type, number FROM plans
UNION ALL
SELECT 'active', label, 0 FROM figures WHERE name = 'active' AND label NOT IN (SELECT plan_type FROM plans)
ON CONFLICT (name, label) DO UPDATE SET value = EXCLUDED.value WHERE f.value <> EXCLUDED.value
"""


async def count_active(connection: Connection) -> None:
    """Count the current subscriptions of each plan."""
    await connection.execute(_COUNT_ACTIVE)


async def load(connection: Connection) -> dict[str, dict[str, Decimal]]:
    """Return the sums by name and label."""
    found: dict[str, dict[str, Decimal]] = {}
    for row in await connection.fetch("SELECT name, label, value FROM figures WHERE name <> 'position'"):
        found.setdefault(row["name"], {})[row["label"]] = row["value"]
    return found


@record(kw_only=True)
class TakingsOfDay:
    """What came in on one day (UTC) for one plan or pack, reversals taken off; no plan without an invoice."""

    day: date
    plan_type: str
    currency: str
    amount: Decimal
    payments: int


# What was not added yet is read from the ledger itself: the entries of a minute.
_TAKINGS = f"""
WITH late AS MATERIALIZED (
    SELECT kind, currency, amount, at, invoice_id FROM ledger
    WHERE id > (SELECT value FROM figures WHERE name = 'position' AND label = 'ledger')::bigint
    ORDER BY id LIMIT $2
)
SELECT day, plan_type, currency, sum(amount) AS amount, sum(payments)::bigint AS payments
FROM (SELECT * FROM takings WHERE day >= $1 UNION ALL {_TAKEN.format(entries="late")}) AS t
WHERE day >= $1 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
MOST_LATE: Final = 50_000


async def load_takings(connection: Connection, since: date) -> list[TakingsOfDay]:
    """Return what came in by day, plan and currency; days without money are left out."""
    return [TakingsOfDay(**row) for row in await connection.fetch(_TAKINGS, since, MOST_LATE)]
