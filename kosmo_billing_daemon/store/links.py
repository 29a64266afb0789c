"""Renewal links by the hashes of their tokens."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection, changed


@record
class IssuedLinks:
    """A user's links: those in force have ``generation``, and these hashes."""

    user_id: UUID
    generation: int
    hashes: frozenset[bytes]


_LOAD = """
SELECT u.user_id, l.generation, l.hashes FROM unnest($1::uuid[]) AS u (user_id), LATERAL (
    SELECT 1 + coalesce(max(generation) FILTER (WHERE revoked_at IS NOT NULL), 0) AS generation,
        coalesce(array_agg(token_hash) FILTER (WHERE revoked_at IS NULL), '{}') AS hashes
    FROM renewal_links WHERE user_id = u.user_id) AS l
"""


async def load(connection: Connection, users: Sequence[UUID]) -> list[IssuedLinks]:
    """Return what was issued to each of these users, who may have none."""
    rows = await connection.fetch(_LOAD, list(users))
    return [IssuedLinks(row["user_id"], row["generation"], frozenset(row["hashes"])) for row in rows]


_ISSUE = """
INSERT INTO renewal_links (token_hash, user_id, generation, issued_at)
SELECT token_hash, user_id, generation, $4 FROM unnest($1::bytea[], $2::uuid[], $3::integer[])
    AS row (token_hash, user_id, generation)
ON CONFLICT DO NOTHING
"""


async def issue(connection: Connection, new: Sequence[tuple[bytes, UUID, int]], now: datetime) -> None:
    """Make links valid, given as ``(hash, user, generation)``; one that was revoked stays so."""
    if new:
        await connection.execute(_ISSUE, *zip(*new, strict=True), now)


async def find_user(connection: Connection, token_hash: bytes) -> UUID | None:
    """Return whose link this is; ``None`` for one that was never issued or was revoked."""
    user_id: UUID | None = await connection.fetchval(
        "SELECT user_id FROM renewal_links WHERE token_hash = $1 AND revoked_at IS NULL", token_hash
    )
    return user_id


_REVOKE = "UPDATE renewal_links SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL"


async def revoke(connection: Connection, user_id: UUID, now: datetime) -> int:
    """End all links of a user; returns how many were valid."""
    return changed(await connection.execute(_REVOKE, user_id, now))
