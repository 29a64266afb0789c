"""What crossed the topics last, as the database knows it: events, counted messages, versions of documents."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class ArrivedUsage:
    """One message of a user that a gateway reported, whether or not it counts."""

    user_id: UUID
    message_id: str
    node_id: str | None
    reporter: str
    count: int
    over_limit: bool
    received_at: datetime


_SELECT = "SELECT user_id, message_id, node_id, reporter, count, over_limit, received_at FROM usage_events"
_ARRIVED = f"{_SELECT} WHERE received_at > $1 ORDER BY received_at DESC LIMIT $2"
_ARRIVED_OF_USER = f"{_SELECT} WHERE user_id = $1 ORDER BY sent_at DESC LIMIT $2"


async def load_usage(
    connection: Connection, user_id: UUID | None, since: datetime, limit: int
) -> list[ArrivedUsage]:
    """Return messages of everybody that arrived ``since`` then, or a user's last ones; newest first."""
    rows = await connection.fetch(_ARRIVED if user_id is None else _ARRIVED_OF_USER, user_id or since, limit)
    return [ArrivedUsage(**row) for row in rows]


_CHANGED = "SELECT user_id, changed_at FROM entitlements WHERE user_id = ANY ($1::uuid[])"


async def load_changed(connection: Connection, users: Sequence[UUID]) -> dict[UUID, datetime]:
    """Return when the documents of these users last changed."""
    return {row["user_id"]: row["changed_at"] for row in await connection.fetch(_CHANGED, list(users))}
