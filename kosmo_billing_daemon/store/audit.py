"""What operators did by hand; a row is written in the transaction of the change it tells of."""

from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class AuditEntry:
    """One by."""

    at: datetime
    who: str
    action: str
    user_id: UUID | None
    subject: str
    reason: str


_APPEND = """
INSERT INTO audit_log (at, who, action, user_id, subject, reason) VALUES ($1, $2, $3, $4, $5, $6)
"""


async def append(connection: Connection, entry: AuditEntry) -> None:
    """Write a by down."""
    await connection.execute(
        _APPEND, entry.at, entry.who, entry.action, entry.user_id, entry.subject, entry.reason
    )


_OF_USER = """
SELECT at, who, action, user_id, subject, reason FROM audit_log
WHERE user_id = $1 ORDER BY id DESC LIMIT $2
"""


async def load_of_user(connection: Connection, user_id: UUID, limit: int) -> list[AuditEntry]:
    """Return what was done about a user, newest first."""
    return [AuditEntry(**row) for row in await connection.fetch(_OF_USER, user_id, limit)]
