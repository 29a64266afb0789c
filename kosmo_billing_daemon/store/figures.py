"""Sums of the business for metrics: what was appended is added, so no scrape reads a table that grows.

The ledger and the events are read once each, in the order of their ids. An id is drawn before its commit, so
reading goes up to an id only when every transaction has ended that may have drawn a smaller one.
"""

from decimal import Decimal

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
    row = await connection.fetchrow(_APPENDED)
    assert row is not None  # noqa: S101 - a SELECT without FROM has its row
    return Appended(**row)


async def has_ended(connection: Connection, number: int) -> bool:
    """Say whether all transactions up to a number have ended."""
    ended: bool = await connection.fetchval(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1", number
    )
    return ended


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
), moved AS (
    UPDATE figures SET value = greatest(value, CASE
        WHEN (SELECT count(*) FROM new) < $2 THEN $1 ELSE (SELECT max(id) FROM new) END)
    WHERE name = 'position' AND label = '{table}'
)
SELECT count(*) FROM new
"""
_ADD_ENTRIES = _ADD.format(
    table="ledger",
    rows="SELECT id, kind, currency, amount FROM ledger",
    sums="""
    SELECT 'credit', currency, sum(amount) FROM new GROUP BY currency
    UNION ALL SELECT 'settled', currency, sum(amount) FROM new WHERE kind = 'received' GROUP BY currency""",
)
_ADD_EVENTS = _ADD.format(
    table="events",
    rows="SELECT id, type FROM events",
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
