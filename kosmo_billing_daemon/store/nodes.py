"""Users' whitelists: the nodes a user of a whitelist plan may write to."""

from datetime import datetime, timedelta
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class Node:
    """One listed node; ``node_id`` is ``!`` and eight lower-case hex digits."""

    node_id: str
    label: str | None
    added_at: datetime


_LOAD = """
SELECT node_id, label, added_at FROM whitelisted_nodes WHERE user_id = $1 ORDER BY added_at, node_id
"""


async def load(connection: Connection, user_id: UUID) -> list[Node]:
    """Return the user's nodes in the order in which they were added."""
    return [Node(**row) for row in await connection.fetch(_LOAD, user_id)]


_OF_NODE = "SELECT user_id FROM whitelisted_nodes WHERE node_id = $1 ORDER BY user_id LIMIT $2"


async def load_users(connection: Connection, node_id: str, limit: int) -> list[UserId]:
    """Return users on whose list a node is."""
    return [row["user_id"] for row in await connection.fetch(_OF_NODE, node_id, limit)]


_SAVE = """
INSERT INTO whitelisted_nodes (user_id, node_id, label, added_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, node_id) DO UPDATE SET label = EXCLUDED.label
"""


async def save(connection: Connection, user_id: UUID, node: Node) -> None:
    """List a node, or give one that is listed another label."""
    await connection.execute(_SAVE, user_id, node.node_id, node.label, node.added_at)


_ADDITIONS = "SELECT node_id, added_at FROM node_additions WHERE user_id = $1 AND added_at > $2"


async def load_additions(connection: Connection, user_id: UUID, since: datetime) -> dict[str, datetime]:
    """Return the nodes a user listed as new after ``since``, and when."""
    return {row["node_id"]: row["added_at"] for row in await connection.fetch(_ADDITIONS, user_id, since)}


_ADD = """
WITH forgotten AS (
    DELETE FROM node_additions
    WHERE user_id = $1 AND added_at <= $3::timestamptz - $4::interval AND node_id <> $2)
INSERT INTO node_additions (user_id, node_id, added_at) VALUES ($1, $2, $3)
ON CONFLICT (user_id, node_id) DO UPDATE SET added_at = EXCLUDED.added_at
"""


async def append_addition(
    connection: Connection, user_id: UUID, node_id: str, at: datetime, window: timedelta
) -> None:
    """Note that a user lists a new node; what is older than ``window`` is forgotten."""
    await connection.execute(_ADD, user_id, node_id, at, window)


_REMOVE = "DELETE FROM whitelisted_nodes WHERE user_id = $1 AND node_id = $2"


async def remove(connection: Connection, user_id: UUID, node_id: str) -> None:
    """Take a node off the list; one that is not on it changes nothing."""
    await connection.execute(_REMOVE, user_id, node_id)
