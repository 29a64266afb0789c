"""What was asked and answered under each ``Idempotency-Key`` of a user (R10)."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.store.postgres import Connection


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it was given: HTTP status and body."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A key in use: what was asked, the invoice it led to, and the answer if one was given."""

    fingerprint: bytes
    invoice_id: InvoiceId
    is_new: bool
    reply: Reply | None


_LOAD = """
SELECT fingerprint, invoice_id, is_new, reply_status, reply_body FROM idempotency_keys
WHERE user_id = $1 AND key = $2 AND created_at > $3
"""


async def load(connection: Connection, user_id: UUID, key: str, after: datetime) -> Bound | None:
    """Return what a key that was first used ``after`` is bound to."""
    row = await connection.fetchrow(_LOAD, user_id, key, after)
    if row is None:
        return None
    return Bound(
        fingerprint=row["fingerprint"],
        invoice_id=InvoiceId(row["invoice_id"]),
        is_new=row["is_new"],
        reply=None if row["reply_status"] is None else Reply(row["reply_status"], row["reply_body"]),
    )


_SAVE = """
INSERT INTO idempotency_keys (user_id, key, fingerprint, invoice_id, is_new, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (user_id, key) DO UPDATE SET
    fingerprint = EXCLUDED.fingerprint, invoice_id = EXCLUDED.invoice_id, is_new = EXCLUDED.is_new,
    reply_status = NULL, reply_body = NULL, created_at = EXCLUDED.created_at
"""


async def save(
    connection: Connection,
    user_id: UUID,
    key: str,
    *,
    fingerprint: bytes,
    invoice_id: UUID,
    is_new: bool,
    now: datetime,
) -> None:
    """Bind a key to an invoice, in place of whatever it was bound to. The user is locked."""
    await connection.execute(_SAVE, user_id, key, fingerprint, invoice_id, is_new, now)


_SAVE_REPLY = """
UPDATE idempotency_keys SET
    reply_status = coalesce(reply_status, $5), reply_body = coalesce(reply_body, $6)
WHERE user_id = $1 AND key = $2 AND fingerprint = $3 AND invoice_id = $4
RETURNING reply_status, reply_body
"""


async def save_reply(
    connection: Connection, user_id: UUID, key: str, *, fingerprint: bytes, invoice_id: UUID, reply: Reply
) -> Reply:
    """Keep the first answer given under a key, and return it; it is ``reply`` unless another was first."""
    row = await connection.fetchrow(
        _SAVE_REPLY, user_id, key, fingerprint, invoice_id, reply.status, reply.body
    )
    return reply if row is None else Reply(row["reply_status"], row["reply_body"])


_REMOVE = """
DELETE FROM idempotency_keys WHERE (user_id, key) IN (
    SELECT user_id, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)
"""


async def remove(connection: Connection, before: datetime, limit: int) -> int:
    """Forget keys first used before; returns how many."""
    return int((await connection.execute(_REMOVE, before, limit)).rpartition(" ")[2])
