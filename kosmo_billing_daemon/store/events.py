"""Events: written once, published in order through the outbox, and kept as a user's history."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class Event:
    """One event, about one user or about the service; ``id`` is given by the database."""

    type: str
    user_id: UUID | None
    data: Mapping[str, Any]
    occurred_at: datetime
    id: int = 0


@record
class StoredEvent:
    """An event as it is kept; ``data`` is JSON.

    ``topup_url`` is added to what is said of a short quota when it is sent: no database knows it.
    """

    id: int
    type: str
    user_id: UUID | None
    occurred_at: datetime
    data: str
    topup_url: str | None = field(default=None, kw_only=True)

    @property
    def full_data(self) -> str:
        """The data with what is added when it is sent."""
        if self.topup_url is None:
            return self.data
        return f'{self.data.removesuffix("}")}, "topup_url": {json.dumps(self.topup_url)}}}'


_COLUMNS = Columns(
    ("type", "text", "type"),
    ("user_id", "uuid", "user_id"),
    ("occurred_at", "timestamptz", "occurred_at"),
    ("data", "jsonb", lambda event: json.dumps(event.data)),
)
_APPEND = _COLUMNS.insert("events")


def append_statement(events: Sequence[Event]) -> Statement | None:
    """Append events in order."""
    return Statement(_APPEND, _COLUMNS.values(events)) if events else None


def _event(row: Any) -> Event:
    return Event(**dict(row) | {"data": json.loads(row["data"])})


_OF_USER = f"SELECT id, {_COLUMNS} FROM events WHERE user_id = $1 ORDER BY id DESC LIMIT $2"


async def load_of_user(connection: Connection, user_id: UUID, limit: int) -> list[Event]:
    """Return a user's latest events, newest first."""
    return [_event(row) for row in await connection.fetch(_OF_USER, user_id, limit)]


_NEWEST = f"SELECT id, {_COLUMNS} FROM events ORDER BY id DESC LIMIT $1"


async def load_newest(connection: Connection, limit: int) -> list[Event]:
    """Return the last events of everybody, newest first."""
    return [_event(row) for row in await connection.fetch(_NEWEST, limit)]


_LAST_OF_SERVICE = f"""
SELECT id, {_COLUMNS} FROM events
WHERE user_id IS NULL AND type = ANY ($1::text[]) ORDER BY id DESC LIMIT 1
"""


async def load_last(connection: Connection, types: Sequence[str]) -> Event | None:
    """Return the last event about the service of these types."""
    row = await connection.fetchrow(_LAST_OF_SERVICE, list(types))
    return None if row is None else _event(row)
