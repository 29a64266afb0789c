"""What the database says of itself: version, rights, and clock; and what is published for a probe."""

from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection, notify


@record(kw_only=True)
class DatabaseServer:
    """The server we are connected to."""

    version: int
    shown_version: str
    role: str
    is_standby: bool
    is_read_only: bool
    most_connections: int
    now: datetime


_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS shown_version, current_user::text AS role,
    pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only')::bool AS is_read_only,
    current_setting('max_connections')::int AS most_connections,
    clock_timestamp() AS now
"""


async def load_server(connection: Connection) -> DatabaseServer:
    """Return what the server says of itself."""
    (row,) = await connection.fetch(_SERVER)
    return DatabaseServer(**row)


async def load_newest_migration(connection: Connection) -> int:
    """Return the number of the newest migration applied; the ledger must exist."""
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM kosmo_billing_migrations"))


async def append_probe(connection: Connection, nobody: UUID, event_type: str, now: datetime) -> int:
    """Have a document and an event of nobody published; returns the event's id. One that waits is kept."""
    await connection.execute("SELECT raise_versions(ARRAY[$1::uuid], ARRAY[true])", nobody)
    event: int | None = await connection.fetchval(
        "SELECT n.id FROM outbox AS o, unnest(o.events) AS of (id) JOIN events AS n ON n.id = of.id"
        " WHERE o.kind = 'event' AND n.user_id = $1 AND n.type = $2 LIMIT 1",
        nobody,
        event_type,
    )
    if event is None:
        event = await connection.fetchval(
            "INSERT INTO events (type, user_id, data, occurred_at) VALUES ($2, $1, '{}', $3) RETURNING id",
            nobody,
            event_type,
            now,
        )
    await notify(connection, "entitlements")
    return int(event or 0)


async def load_waiting_probes(connection: Connection, nobody: UUID, event: int) -> list[str]:
    """Return what of a probe is not published yet, in words."""
    row = await connection.fetchrow(
        "SELECT EXISTS (SELECT FROM outbox WHERE kind = 'rights' AND $1 = ANY (users)),"
        " EXISTS (SELECT FROM outbox WHERE kind = 'event' AND $2 = ANY (events))",
        nobody,
        event,
    )
    return [what for what, waits in zip(("document", "event"), row or (), strict=False) if waits]
