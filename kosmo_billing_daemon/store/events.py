"""The outbox of events: rows first, published in order and marked one by one.

Ids are given at insert, not at commit, so "everything up to id" would skip late commits.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class Event:
    """One event about one user; ``id`` is given by the database."""

    type: str
    user_id: UUID
    data: Mapping[str, Any]
    occurred_at: datetime
    id: int = 0


_APPEND = """
INSERT INTO events (type, user_id, data, occurred_at)
SELECT type, user_id, data::jsonb, occurred_at
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::timestamptz[])
    WITH ORDINALITY AS row (type, user_id, data, occurred_at, place)
ORDER BY place
"""


def append_statement(events: Sequence[Event]) -> Statement | None:
    """Append events in order."""
    if not events:
        return None
    return Statement(
        _APPEND,
        [
            [event.type for event in events],
            [event.user_id for event in events],
            [json.dumps(event.data) for event in events],
            [event.occurred_at for event in events],
        ],
    )


def _event(row: Any) -> Event:
    return Event(
        id=row["id"],
        type=row["type"],
        user_id=row["user_id"],
        data=json.loads(row["data"]),
        occurred_at=row["occurred_at"],
    )


_MARK = "UPDATE events SET published_at = $2 WHERE id = ANY ($1::bigint[])"


def mark_statement(ids: Sequence[int], now: datetime) -> Statement | None:
    """Note that these events were acknowledged by the broker."""
    return Statement(_MARK, [ids, now]) if ids else None


_MARK_FREE = """
UPDATE events SET published_at = $2 WHERE id IN (
    SELECT id FROM events WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING id
"""


async def mark_free(connection: Connection, ids: Sequence[int], now: datetime) -> set[int]:
    """Mark those of these events whose row nobody holds; returns which."""
    return {row["id"] for row in await connection.fetch(_MARK_FREE, ids, now)} if ids else set()


async def load_of_user(connection: Connection, user_id: UUID, limit: int) -> list[Event]:
    """Return a user's latest new_events, newest first."""
    rows = await connection.fetch(
        "SELECT id, type, user_id, data, occurred_at FROM events"
        " WHERE user_id = $1 ORDER BY id DESC LIMIT $2",
        user_id,
        limit,
    )
    return [_event(row) for row in rows]


_OLDEST = "SELECT occurred_at FROM events WHERE published_at IS NULL ORDER BY id LIMIT 1"
_OLDEST_FREE = """
SELECT occurred_at FROM events WHERE published_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""


async def oldest_unpublished(connection: Connection) -> datetime | None:
    """Return when the oldest unpublished event happened."""
    at: datetime | None = await connection.fetchval(_OLDEST)
    return at


async def oldest_free_unpublished(connection: Connection) -> datetime | None:
    """Return the same of rows that nobody holds."""
    at: datetime | None = await connection.fetchval(_OLDEST_FREE)
    return at
