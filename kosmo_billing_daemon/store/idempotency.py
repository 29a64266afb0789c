"""What was asked and answered under each ``Idempotency-Key`` of a user (R10)."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection, changed


@record
class Reply:
    """An answer as it was given: HTTP status and body."""

    status: int
    body: bytes


@record(kw_only=True)
class Bound:
    """A key in use: what was asked, the invoice it led to, and the answer if one was given."""

    fingerprint: bytes
    invoice_id: InvoiceId
    is_new: bool
    reply: Reply | None


_LOAD = """
SELECT k.user_id, k.key, fingerprint, invoice_id, is_new, reply_status, reply_body
FROM unnest($1::uuid[], $2::text[]) AS named (user_id, key)
JOIN idempotency_keys AS k ON k.user_id = named.user_id AND k.key = named.key
WHERE created_at > $3
"""

Named = tuple[UserId, str]
"""A key is a user's own: whose, and its value."""


async def load(connection: Connection, keys: Collection[Named], after: datetime) -> dict[Named, Bound]:
    """Return what these keys are bound to, of those that were first used ``after``."""
    if not keys:
        return {}
    rows = await connection.fetch(_LOAD, [user for user, _ in keys], [key for _, key in keys], after)
    return {
        (UserId(row["user_id"]), row["key"]): Bound(
            fingerprint=row["fingerprint"],
            invoice_id=InvoiceId(row["invoice_id"]),
            is_new=row["is_new"],
            reply=None if row["reply_status"] is None else Reply(row["reply_status"], row["reply_body"]),
        )
        for row in rows
    }


_SAVE = """
INSERT INTO idempotency_keys (user_id, key, fingerprint, invoice_id, is_new, created_at)
SELECT *, $6 FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::uuid[], $5::boolean[])
ON CONFLICT (user_id, key) DO UPDATE SET
    fingerprint = EXCLUDED.fingerprint, invoice_id = EXCLUDED.invoice_id, is_new = EXCLUDED.is_new,
    reply_status = NULL, reply_body = NULL, created_at = EXCLUDED.created_at
"""


def save_statement(bound: Mapping[Named, Bound], now: datetime) -> Statement | None:
    """Bind keys to invoices, in place of whatever they were bound to. Their users are locked."""
    values = [
        (user, key, entry.fingerprint, entry.invoice_id, entry.is_new) for (user, key), entry in bound.items()
    ]
    return Statement(_SAVE, [*zip(*values, strict=True), now]) if bound else None


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
    SELECT user_id, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
"""


async def remove(connection: Connection, before: datetime, limit: int) -> int:
    """Forget keys first used before; returns how many."""
    return changed(await connection.execute(_REMOVE, before, limit))
