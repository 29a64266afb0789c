"""The queue of users whose earlier subscriptions had more or less left than was carried over.

Messages were reported late, or a lease was handed back.
"""

from collections.abc import Sequence
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

_LOAD = "SELECT user_id FROM recounts WHERE user_id <> ALL ($2::uuid[]) ORDER BY user_id LIMIT $1"


async def load(connection: Connection, limit: int, but: Sequence[UUID] = ()) -> list[UserId]:
    """Return users that wait, but for ``but``."""
    return [UserId(row["user_id"]) for row in await connection.fetch(_LOAD, limit, list(but))]


async def delete(connection: Connection, users: Sequence[UUID]) -> None:
    """Take users off the queue; who is counted late after that comes onto it again."""
    await connection.execute("DELETE FROM recounts WHERE user_id = ANY ($1::uuid[])", list(users))


def append_statement(users: Sequence[UUID]) -> Statement | None:
    """Queue users."""
    return Statement(_APPEND, [list(users)]) if users else None


_APPEND = "INSERT INTO recounts (user_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING"
