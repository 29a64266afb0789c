"""What the database says of itself: version, rights, and clock."""

from collections.abc import Sequence
from datetime import datetime

from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.store.postgres import Connection

TABLES = (
    "attention_cases",
    "audit_log",
    "btcpay_invoices",
    "entitlements",
    "events",
    "idempotency_keys",
    "installation",
    "kosmo_billing_migrations",
    "subscriptions",
    "usage_days",
    "usage_events",
    "usage_quarantine",
    "webhook_deliveries",
    "whitelisted_nodes",
)


@record(kw_only=True)
class Server:
    """The server we are connected to. ``may_migrate`` says whether our role may make tables."""

    version: int
    shown_version: str
    role: str
    is_standby: bool
    may_migrate: bool
    most_connections: int
    now: datetime


_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS shown_version, current_user::text AS role,
    pg_is_in_recovery() AS is_standby, current_setting('max_connections')::int AS most_connections,
    coalesce(
        (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1),
        has_database_privilege(current_database(), 'CREATE')) AS may_migrate,
    clock_timestamp() AS now
"""


async def load_server(connection: Connection, schema: str) -> Server:
    """Return what the server says of itself."""
    row = await connection.fetchrow(_SERVER, schema)
    assert row is not None  # noqa: S101 - a SELECT without FROM has its row
    return Server(**row)


_LACKING = """
SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY ($2::text[]) AND c.relkind IN ('r', 'p') AND NOT (
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
    AND has_table_privilege(c.oid, 'DELETE'))
ORDER BY c.relname
"""


async def load_lacking(connection: Connection, schema: str, tables: Sequence[str] = TABLES) -> list[str]:
    """Return the tables of ours that our role may not read and write."""
    return [row["relname"] for row in await connection.fetch(_LACKING, schema, list(tables))]


async def load_newest_migration(connection: Connection) -> int:
    """Return the number of the newest migration applied; the ledger must exist."""
    number: int = await connection.fetchval("SELECT coalesce(max(number), 0) FROM kosmo_billing_migrations")
    return number
