"""What operators did by hand; a row is written in the transaction of the change it tells of."""

from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class AuditEntry:
    """One thing that an operator did."""

    at: datetime
    who: str
    action: str
    user_id: UUID | None
    subject: str
    reason: str


COLUMNS = Columns(
    ("at", "timestamptz", "at"),
    ("who", "text", "who"),
    ("action", "text", "action"),
    ("user_id", "uuid", "user_id"),
    ("subject", "text", "subject"),
    ("reason", "text", "reason"),
)
_APPEND = COLUMNS.insert("audit_log")


async def append(connection: Connection, *entries: AuditEntry) -> None:
    """Write down what was done."""
    await connection.execute(_APPEND, *COLUMNS.values(entries))


_OF_USER = f"SELECT {COLUMNS} FROM audit_log WHERE user_id = $1 ORDER BY id DESC LIMIT $2"


async def load_of_user(connection: Connection, user_id: UUID, limit: int) -> list[AuditEntry]:
    """Return what was done about a user, newest first."""
    return [AuditEntry(**row) for row in await connection.fetch(_OF_USER, user_id, limit)]
