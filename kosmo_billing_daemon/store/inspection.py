"""What the database says of itself: version, rights, and clock."""

from datetime import datetime

from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class Server:
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


async def load_server(connection: Connection) -> Server:
    """Return what the server says of itself."""
    row = await connection.fetchrow(_SERVER)
    assert row is not None  # noqa: S101 - a SELECT without FROM has its row
    return Server(**row)


async def load_newest_migration(connection: Connection) -> int:
    """Return the number of the newest migration applied; the ledger must exist."""
    number: int = await connection.fetchval("SELECT coalesce(max(number), 0) FROM kosmo_billing_migrations")
    return number
