"""Which entitlements wait for the publisher, what they say, and what was published.

A version and the rows it speaks of are read in one statement, so that they are of one moment.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.entitlements import Entitlement, entitlement
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn
from kosmo_billing_daemon.store.subscriptions import COLUMNS, subscription


@record
class Versioned:
    """What a user may do, and the version that says so."""

    version: int
    entitlement: Entitlement


@record
class Published:
    """One acknowledged publication, and what it said."""

    user_id: UUID
    version: int
    sequence: int
    document: str


CONTENT = f"""
{COLUMNS.of("s")}, due.user_id, due.version,
CASE WHEN (SELECT scope FROM quotes WHERE id = s.quote_id) = 'whitelist' THEN ARRAY(
    SELECT node_id FROM whitelisted_nodes AS n WHERE n.user_id = due.user_id ORDER BY node_id) END AS nodes
"""
"""What a document says, of ``FROM_DUE``: the user's current or else last subscription, and the nodes.

Its rows must be learned (``quotes.learn``)."""

FROM_DUE = """
FROM due LEFT JOIN LATERAL (
    SELECT * FROM subscriptions WHERE user_id = due.user_id
    ORDER BY status IN ('active', 'grace') DESC, ended_at DESC, number DESC LIMIT 1
) AS s ON true
"""

_OF_USERS = f"""
WITH due AS MATERIALIZED (SELECT user_id, version FROM entitlements WHERE user_id = ANY ($1::uuid[]))
SELECT {CONTENT} {FROM_DUE}
"""


def versioned(row: Any) -> Versioned:
    """Read a row that begins with ``CONTENT``."""
    user_id, version, nodes = row[COLUMNS.width : COLUMNS.width + 3]
    bought = None if row[0] is None else subscription(row)
    return Versioned(version, entitlement(user_id, bought, tuple(nodes or ())))


async def load_of_users(connection: Connection, users: Sequence[UUID]) -> dict[UserId, Versioned]:
    """Return what these users may do; users without a document are missing."""
    rows = await learn(connection, await connection.fetch(_OF_USERS, list(users)))
    found = [versioned(row) for row in rows]
    return {one.entitlement.user_id: one for one in found}


_RISEN = f"""
WITH due AS MATERIALIZED (
    SELECT e.user_id, e.version FROM unnest($1::uuid[], $2::bigint[]) AS known (user_id, version)
    JOIN entitlements AS e ON e.user_id = known.user_id AND e.version > known.version)
SELECT {CONTENT} {FROM_DUE}
"""


async def load_risen(connection: Connection, known: Mapping[UserId, int]) -> list[Versioned]:
    """Return the documents of those users whose version is greater than the one known."""
    rows = await connection.fetch(_RISEN, list(known), list(known.values()))
    return [versioned(row) for row in await learn(connection, rows)]


_MARK = """
WITH locked AS (
    SELECT user_id, published_version FROM entitlements WHERE user_id = ANY ($1::uuid[])
    ORDER BY user_id FOR UPDATE SKIP LOCKED)
UPDATE entitlements AS e SET
    published_version = greatest(e.published_version, row.version),
    published_sequence = row.sequence, published_document = row.document, published_at = $5
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) AS row (user_id, version, sequence, document)
JOIN locked ON locked.user_id = row.user_id
WHERE e.user_id = row.user_id AND e.user_id = ANY ($1)
RETURNING e.user_id, locked.published_version = 0 AS is_first, e.version > e.published_version AS is_behind
"""


@record
class Marked:
    """Whether it was the user's first document, and whether the user's row has changed since."""

    is_first: bool
    is_behind: bool


def mark_statement(published: Sequence[Published], now: datetime) -> Statement | None:
    """Note acknowledged publications; returns rows for ``marked``.

    Never waits for a writer: a row that is locked is left out and says that it waits as before.
    """
    if not published:
        return None
    columns = zip(*((p.user_id, p.version, p.sequence, p.document) for p in published), strict=True)
    return Statement(_MARK, [*columns, now])


def marked(rows: Sequence[Any]) -> dict[UUID, Marked]:
    """Say who was marked."""
    return {row["user_id"]: Marked(row["is_first"], row["is_behind"]) for row in rows}


@record
class Position:
    """Where publication stands: the greatest sequence, how many documents, which versions are reserved."""

    sequence: int
    documents: int
    version_ceiling: int
    database: str


_POSITION = """
SELECT
    (SELECT coalesce(max(published_sequence), 0) FROM entitlements) AS sequence,
    -- By the sequence, whose index alone answers: the rows hold whole documents.
    (SELECT count(*) FROM entitlements WHERE published_sequence > 0) AS documents,
    version_ceiling, database_id::text AS database
FROM installation
"""


async def load_position(connection: Connection) -> Position:
    """Return where publication stands."""
    row = await connection.fetchrow(_POSITION)
    assert row is not None  # noqa: S101 - the table has one row
    return Position(**row)


async def load_greatest_version(connection: Connection) -> int:
    """Return the greatest version given so far."""
    version: int = await connection.fetchval("SELECT last_value FROM entitlement_versions")
    return version


async def begin_versions_above(connection: Connection, version: int) -> None:
    """Have every version that is drawn from now on, by whomever, lie above this one."""
    # Never back: versions drawn meanwhile are lower than what this sets.
    await connection.execute(
        "SELECT setval('entitlement_versions', $1) FROM entitlement_versions WHERE last_value < $1", version
    )


_RESERVE = """
UPDATE installation SET version_ceiling =
    greatest(version_ceiling, $1, (SELECT last_value FROM entitlement_versions)) + $2
RETURNING version_ceiling
"""


async def reserve_versions(connection: Connection, above: int, block: int) -> int:
    """Reserve at least ``block`` versions above all that were given and ``above``; returns the last of them.

    They may be published once the broker has acknowledged a watermark that says so.
    """
    ceiling: int = await connection.fetchval(_RESERVE, above, block)
    return ceiling


# Not urgent, unless it was: a purchase made meanwhile must not queue behind everybody's documents.
_RAISE = """
UPDATE entitlements SET version = greatest(entitlements.version + 1, v.version)
FROM (SELECT user_id, nextval('entitlement_versions') AS version FROM (
          SELECT user_id FROM entitlements WHERE user_id = ANY ($1::uuid[])
          ORDER BY user_id FOR UPDATE SKIP LOCKED) AS locked) AS v
WHERE entitlements.user_id = v.user_id AND entitlements.user_id = ANY ($1)
RETURNING entitlements.user_id
"""


async def raise_versions(connection: Connection, users: Sequence[UUID]) -> set[UUID]:
    """Give these users' documents a new version, so that consumers accept what we say.

    Returns whose was raised. A row that a writer holds is left out.
    """
    return {row["user_id"] for row in await connection.fetch(_RAISE, users)}


@record
class Publication:
    """The version last published, and what it said if this release published it."""

    version: int
    document: str | None

    def said(self, payload: bytes) -> bool:
        """Say whether that is what was published, word for word."""
        return self.document is not None and self.document.encode() == payload


async def load_published_between(connection: Connection, first: UUID, last: UUID) -> dict[UUID, Publication]:
    """Return what was last published of users between two ids, both included, unless more waits."""
    rows = await connection.fetch(
        "SELECT user_id, published_version, published_document FROM entitlements"
        " WHERE published_version > 0 AND NOT waits AND user_id BETWEEN $1 AND $2",
        first,
        last,
    )
    return {user_id: Publication(version, document) for user_id, version, document in rows}


_TOUCH = """
UPDATE entitlements SET published_version = version - 1, urgent_version = CASE
    WHEN urgent_version > published_version THEN urgent_version ELSE least(urgent_version, version - 1) END
WHERE user_id IN (
    SELECT user_id FROM entitlements WHERE user_id = ANY ($1::uuid[]) ORDER BY user_id FOR UPDATE SKIP LOCKED)
RETURNING user_id
"""


async def touch(connection: Connection, users: Sequence[UUID]) -> set[UUID]:
    """Have these users' documents published again: the broker lost them. Changes of rights go before.

    Returns whose will be. A row that a writer holds is left out.
    """
    return {row["user_id"] for row in await connection.fetch(_TOUCH, users)} if users else set()


_OLDEST = """
SELECT min(changed_at) FROM (
    SELECT changed_at FROM entitlements WHERE urgent_version > published_version LIMIT 1000) AS waiting
"""
_OLDEST_FREE = """
SELECT min(changed_at) FROM (
    SELECT changed_at FROM entitlements WHERE urgent_version > published_version LIMIT 1000
    FOR UPDATE SKIP LOCKED) AS waiting
"""


async def oldest_waiting(connection: Connection) -> datetime | None:
    """Return when the oldest unpublished change of rights was made."""
    at: datetime | None = await connection.fetchval(_OLDEST)
    return at


async def oldest_free_waiting(connection: Connection) -> datetime | None:
    """Return the same of rows that nobody holds."""
    at: datetime | None = await connection.fetchval(_OLDEST_FREE)
    return at
