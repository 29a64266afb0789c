"""Leases: what is set apart of a quota for one gate, granted and counted under the subscription's lock."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.leases import Lease, Quota
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.postgres import Connection, changed


@record(kw_only=True)
class GrantedLease:
    """One lease of one gate, and the request that it answers."""

    id: UUID
    reporter: str
    request_id: str
    user_id: UUID
    subscription_id: UUID
    lease: Lease
    granted_at: datetime
    expires_at: datetime


@record
class LeasableQuota:
    """A user's current subscription, and when it ends."""

    subscription_id: UUID
    ends_at: datetime
    quota: Quota


_COLUMNS = Columns(
    ("id", "uuid", "id"),
    ("reporter", "text", "reporter"),
    ("request_id", "text", "request_id"),
    ("user_id", "uuid", "user_id"),
    ("subscription_id", "uuid", "subscription_id"),
    ("messages", "bigint", "lease.messages"),
    ("used", "bigint", "lease.used"),
    ("granted_at", "timestamptz", "granted_at"),
    ("expires_at", "timestamptz", "expires_at"),
)


def _lease(row: Any) -> GrantedLease:
    values = dict(row)
    lease = Lease(values.pop("messages"), values.pop("used"))
    return GrantedLease(lease=lease, **values)


_QUOTAS = """
SELECT user_id, id, coalesce(grace_until, valid_until) AS ends_at, messages_limit, messages_used,
    coalesce((SELECT sum(l.messages - l.used)::bigint FROM leases AS l
        WHERE l.subscription_id = s.id AND l.used < l.messages), 0) AS outstanding
FROM subscriptions AS s WHERE user_id = ANY ($1::uuid[]) AND status IN ('active', 'grace')
"""


async def load_quotas(connection: Connection, users: Sequence[UUID]) -> dict[UUID, LeasableQuota]:
    """Return what each user's current subscription has left; it must be locked."""
    return {
        row["user_id"]: LeasableQuota(
            row["id"],
            row["ends_at"],
            Quota(row["messages_limit"], row["messages_used"], row["outstanding"]),
        )
        for row in await connection.fetch(_QUOTAS, users)
    }


_ANSWERED = f"""
SELECT l.* FROM unnest($1::text[], $2::text[]) AS asked (reporter, request_id), LATERAL (
    SELECT {_COLUMNS} FROM leases
    WHERE reporter = asked.reporter AND request_id = asked.request_id OFFSET 0
) AS l
"""


async def load_answered(
    connection: Connection, requests: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], GrantedLease]:
    """Return the leases that answered these requests, given as reporter and request id, before."""
    rows = await connection.fetch(_ANSWERED, *zip(*requests, strict=True))
    return {(row["reporter"], row["request_id"]): _lease(row) for row in rows}


_LOCK = f"SELECT {_COLUMNS} FROM leases WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE"


async def lock(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, GrantedLease]:
    """Lock and return those of these leases that there are."""
    return {row["id"]: _lease(row) for row in await connection.fetch(_LOCK, ids)} if ids else {}


_SHRUNK = _COLUMNS.only("id", "messages")
_SAVE = _SHRUNK.update("leases")


async def save(connection: Connection, shrunk: Sequence[GrantedLease]) -> None:
    """Write down that leases have shrunk."""
    if shrunk:
        await connection.execute(_SAVE, *_SHRUNK.values(shrunk))


_APPEND = _COLUMNS.insert("leases")


async def append(connection: Connection, granted: Sequence[GrantedLease]) -> None:
    """Write new leases down."""
    if granted:
        await connection.execute(_APPEND, *_COLUMNS.values(granted))


_OPEN = f"""
SELECT {_COLUMNS} FROM leases AS l
WHERE used < messages AND ($1::text IS NULL OR reporter = $1) AND ($2::uuid IS NULL OR user_id = $2)
    AND (SELECT status <> 'expired' OR cashed_at IS NOT NULL FROM subscriptions WHERE id = l.subscription_id)
ORDER BY granted_at, id LIMIT $3
"""


async def load_open(
    connection: Connection, reporter: str | None, user_id: UUID | None, limit: int
) -> list[GrantedLease]:
    """Return leases with messages outstanding that somebody could use else, oldest first.

    Those of a subscription that was replaced are part of what its successor will carry over.
    """
    return [_lease(row) for row in await connection.fetch(_OPEN, reporter, user_id, limit)]


_REMOVE = """
DELETE FROM leases WHERE id IN (
    SELECT id FROM leases WHERE granted_at < $1 AND (used >= messages OR expires_at < $1)
    ORDER BY granted_at LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def remove(connection: Connection, before: datetime, limit: int) -> int:
    """Forget leases that ended long ago; returns how many."""
    return changed(await connection.execute(_REMOVE, before, limit))


_OPENINGS = "SELECT reporter, openings FROM lease_files WHERE reporter = ANY ($1::text[]) FOR UPDATE"


async def load_openings(connection: Connection, reporters: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Lock and return the last openings of these gates' files."""
    rows = await connection.fetch(_OPENINGS, sorted(reporters))
    return {row["reporter"]: tuple(row["openings"]) for row in rows}


_SAVE_OPENINGS = """
INSERT INTO lease_files (reporter, openings) VALUES ($1, $2)
ON CONFLICT (reporter) DO UPDATE SET openings = EXCLUDED.openings
"""


async def save_openings(connection: Connection, reporter: str, openings: Sequence[str]) -> None:
    """Remember how a gate's file was opened."""
    await connection.execute(_SAVE_OPENINGS, reporter, openings)
