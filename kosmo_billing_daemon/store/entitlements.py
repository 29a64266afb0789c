"""Which entitlements wait for the publisher, what they say, and what was published.

A version and the rows it speaks of are read in one statement, so that they are of one moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.entitlements import Entitlement, entitlement
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.subscriptions import COLUMNS, subscription

PREFIXED = ", ".join(f"s.{name.strip()}" for name in COLUMNS.replace("user_id,", "").split(","))


@dataclass(frozen=True, slots=True)
class Versioned:
    """What a user may do, and the version that says so."""

    version: int
    entitlement: Entitlement


@dataclass(frozen=True, slots=True)
class Published:
    """One acknowledged publication."""

    user_id: UUID
    version: int
    sequence: int


_CONTENT = f"""
SELECT due.user_id, due.version, {PREFIXED}, CASE WHEN s.scope = 'whitelist' THEN ARRAY(
        SELECT node_id FROM whitelisted_nodes AS n WHERE n.user_id = due.user_id ORDER BY node_id
    ) END AS nodes
FROM due LEFT JOIN LATERAL (
    SELECT * FROM subscriptions WHERE user_id = due.user_id
    ORDER BY status IN ('active', 'grace') DESC, ended_at DESC, number DESC LIMIT 1
) AS s ON true
"""

_URGENT = f"""
WITH due AS MATERIALIZED (
    SELECT user_id, version FROM entitlements
    WHERE urgent_version > published_version AND user_id <> ALL ($2::uuid[])
    ORDER BY urgent_version DESC LIMIT $1)
{_CONTENT}
"""

_USED = f"""
WITH due AS MATERIALIZED (
    SELECT user_id, version FROM entitlements
    WHERE waits AND coalesce(published_at, '-infinity') <= $3 AND user_id <> ALL ($2::uuid[])
    ORDER BY coalesce(published_at, '-infinity') LIMIT $1)
{_CONTENT}
"""


async def is_waiting(connection: Connection) -> bool:
    """Say whether any change waits, be it only because of its user's last publication."""
    waiting: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM entitlements WHERE waits)")
    return waiting


_AFTER = f"""
WITH due AS MATERIALIZED (
    SELECT user_id, version, published_sequence FROM entitlements
    WHERE published_sequence > $1 AND published_sequence <= $2 ORDER BY published_sequence LIMIT $3)
{_CONTENT.replace("due.version,", "due.version, due.published_sequence,")}
ORDER BY due.published_sequence
"""

_OF_USERS = f"""
WITH due AS MATERIALIZED (SELECT user_id, version FROM entitlements WHERE user_id = ANY ($1::uuid[]))
{_CONTENT}
"""


def _versioned(row: Any) -> Versioned:
    user_id = UserId(row["user_id"])
    bought = None if row["id"] is None else subscription(row)
    return Versioned(row["version"], entitlement(user_id, bought, tuple(row["nodes"] or ())))


async def load_urgent(connection: Connection, limit: int, but: Sequence[UUID]) -> list[Versioned]:
    """Return the latest changes of rights that nobody was told, without users named in ``but``."""
    return [_versioned(row) for row in await connection.fetch(_URGENT, limit, list(but))]


async def load_used(
    connection: Connection, limit: int, but: Sequence[UUID], published_before: datetime
) -> list[Versioned]:
    """Return changes of any kind, of users whose last publication was before ``published_before``.

    Who was told longest ago comes first.
    """
    return [_versioned(row) for row in await connection.fetch(_USED, limit, list(but), published_before)]


async def load_published_after(
    connection: Connection, after: int, until: int, limit: int
) -> list[tuple[int, Versioned]]:
    """Return what was published in the sequence ``(after, until]``, in order, as it is now."""
    rows = await connection.fetch(_AFTER, after, until, limit)
    return [(row["published_sequence"], _versioned(row)) for row in rows]


async def load_of_users(connection: Connection, users: Sequence[UUID]) -> dict[UserId, Versioned]:
    """Return what these users may do; users without a document are missing."""
    rows = await connection.fetch(_OF_USERS, list(users))
    return {UserId(row["user_id"]): _versioned(row) for row in rows}


_RISEN = f"""
WITH due AS MATERIALIZED (
    SELECT e.user_id, e.version FROM unnest($1::uuid[], $2::bigint[]) AS known (user_id, version)
    JOIN entitlements AS e ON e.user_id = known.user_id AND e.version > known.version)
{_CONTENT}
"""


async def load_risen(connection: Connection, known: Mapping[UserId, int]) -> list[Versioned]:
    """Return the documents of those users whose version is greater than the one known."""
    return [_versioned(row) for row in await connection.fetch(_RISEN, list(known), list(known.values()))]


_MARK = """
WITH locked AS (
    SELECT user_id, published_version FROM entitlements WHERE user_id = ANY ($1::uuid[])
    ORDER BY user_id FOR UPDATE SKIP LOCKED)
UPDATE entitlements AS e SET
    published_version = greatest(e.published_version, row.version),
    published_sequence = row.sequence, published_at = $4
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS row (user_id, version, sequence)
JOIN locked ON locked.user_id = row.user_id
WHERE e.user_id = row.user_id
RETURNING e.user_id, locked.published_version = 0 AS is_first, e.version > e.published_version AS is_behind
"""


@dataclass(frozen=True, slots=True)
class Marked:
    """Whether it was the user's first document, and whether the user's row has changed since."""

    is_first: bool
    is_behind: bool


async def mark_published(
    connection: Connection, published: Sequence[Published], now: datetime
) -> dict[UUID, Marked]:
    """Note acknowledged publications; returns who was marked.

    Never waits for a writer: a row that is locked is left out and says that it waits as before.
    """
    rows = await connection.fetch(
        _MARK,
        [p.user_id for p in published],
        [p.version for p in published],
        [p.sequence for p in published],
        now,
    )
    return {row["user_id"]: Marked(row["is_first"], row["is_behind"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Position:
    """Where publication stands: the greatest sequence, how many documents, the greatest version."""

    sequence: int
    documents: int
    greatest_version: int
    database: str


_POSITION = """
SELECT
    (SELECT coalesce(max(published_sequence), 0) FROM entitlements) AS sequence,
    (SELECT count(*) FROM entitlements WHERE published_version > 0) AS documents,
    (SELECT last_value FROM entitlement_versions) AS greatest_version,
    (SELECT database_id::text FROM installation) AS database
"""


async def load_position(connection: Connection) -> Position:
    """Return where publication stands."""
    row = await connection.fetchrow(_POSITION)
    assert row is not None  # noqa: S101 - an aggregate always has its row
    return Position(**row)


async def load_greatest_version(connection: Connection) -> int:
    """Return the greatest version given so far."""
    version: int = await connection.fetchval("SELECT last_value FROM entitlement_versions")
    return version


# Not urgent: a purchase made meanwhile must not queue behind everybody's documents.
_RAISE = """
UPDATE entitlements SET version = greatest(entitlements.version + 1, v.version)
FROM (SELECT user_id, nextval('entitlement_versions') AS version FROM (
          SELECT user_id FROM entitlements WHERE $1::uuid[] IS NULL OR user_id = ANY ($1::uuid[])
          ORDER BY user_id FOR UPDATE) AS locked) AS v
WHERE entitlements.user_id = v.user_id
"""


async def raise_versions(connection: Connection, above: int, users: Sequence[UUID] | None = None) -> int:
    """Lift the versions of ``users``, or everybody's, above ``above``, so that edges accept what we say.

    Returns how many were lifted.
    """
    await connection.execute(
        "SELECT setval('entitlement_versions', greatest($1, (SELECT last_value FROM entitlement_versions)))",
        above,
    )
    result = await connection.execute(_RAISE, None if users is None else list(users))
    return int(result.rpartition(" ")[2])


async def load_users_with_documents(connection: Connection, first: UUID, last: UUID) -> dict[UUID, int]:
    """Return the published version of every user between two ids, both included."""
    rows = await connection.fetch(
        "SELECT user_id, published_version FROM entitlements"
        " WHERE published_version > 0 AND user_id BETWEEN $1 AND $2",
        first,
        last,
    )
    return {row["user_id"]: row["published_version"] for row in rows}


async def touch(connection: Connection, users: Sequence[UUID]) -> None:
    """Have these users' documents published again: the broker lost them. Changes of rights go before."""
    await connection.execute(
        "UPDATE entitlements SET published_version = version - 1, urgent_version = CASE"
        " WHEN urgent_version > published_version THEN urgent_version"
        " ELSE least(urgent_version, version - 1) END"
        " WHERE user_id IN (SELECT user_id FROM entitlements WHERE user_id = ANY ($1::uuid[])"
        " ORDER BY user_id FOR UPDATE)",
        list(users),
    )


async def oldest_waiting(connection: Connection) -> datetime | None:
    """Return when the oldest unpublished change of rights was made."""
    at: datetime | None = await connection.fetchval(
        "SELECT min(changed_at) FROM (SELECT changed_at FROM entitlements"
        " WHERE urgent_version > published_version LIMIT 1000) AS waiting"
    )
    return at
