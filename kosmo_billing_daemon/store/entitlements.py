"""What users may do, in which version, and which versions may be published.

A version and the rows it speaks of are read in one statement, so that they are of one moment.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.entitlements import Entitlement, ShownPeriod, entitlement
from kosmo_billing_daemon.domain.subscriptions import Status, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn, plan


@record
class Versioned:
    """What a user may do, and the version that says so."""

    version: int
    entitlement: Entitlement


_SHOWN = "quote_id, status, valid_from, valid_until, grace_until, ended_at, messages_limit, messages_used"

CONTENT = f"""
s.id, due.user_id, {", ".join(f"s.{name}" for name in _SHOWN.split(", "))}, due.version,
ARRAY(SELECT node_id FROM whitelisted_nodes AS n WHERE n.user_id = due.user_id ORDER BY node_id) AS nodes
"""
"""What a document says, of ``FROM_DUE``: the user's current or else last subscription, and the nodes, which
count for some plans only (to look for the plan here costs as much as all the rest).

Its rows must be learned (``quotes.learn``)."""

USER, VERSION, WIDTH = 1, 10, 12
"""Where the user and the version stand in ``CONTENT``, and how many columns it has."""

# A current subscription is found by its own index, so that no history is read for it.
FROM_DUE = f"""
FROM due LEFT JOIN LATERAL (
    SELECT id, {_SHOWN} FROM subscriptions WHERE user_id = due.user_id AND status IN ('active', 'grace')
    UNION ALL
    (SELECT id, {_SHOWN} FROM subscriptions WHERE user_id = due.user_id AND NOT EXISTS (
        SELECT FROM subscriptions WHERE user_id = due.user_id AND status IN ('active', 'grace'))
     ORDER BY ended_at DESC, number DESC LIMIT 1)
    LIMIT 1
) AS s ON true
"""

_OF_USERS = f"""
WITH due AS MATERIALIZED (SELECT user_id, version FROM entitlements WHERE user_id = ANY ($1::uuid[]))
SELECT {CONTENT} {FROM_DUE}
"""


_STATUSES = {status.value: status for status in Status}  # a tenth of the time that asking the class takes


def versioned(row: Any) -> Versioned:
    """Read a row that begins with ``CONTENT``."""
    period_id, user_id, quote_id, status, start, until, grace, ended, limit, used, version, nodes = row[
        :WIDTH
    ]
    shown = None
    if period_id is not None:
        shown = ShownPeriod(
            id=period_id,
            plan=plan(quote_id),
            status=_STATUSES[status],
            valid_from=start,
            valid_until=until,
            grace_until=grace,
            ended_at=ended,
            messages_limit=limit,
            messages_used=used,
        )
    return Versioned(version, entitlement(user_id, shown, tuple(nodes)))


async def load_of_users(connection: Connection, users: Sequence[UUID]) -> dict[UserId, Versioned]:
    """Return what these users may do; users without a document are missing."""
    rows = await learn(connection, await connection.fetch(_OF_USERS, list(users)))
    return {row[USER]: versioned(row) for row in rows}


_RISEN = f"""
WITH due AS MATERIALIZED (
    SELECT known.user_id, coalesce(e.version, -1) AS version
    FROM unnest($1::uuid[], $2::bigint[]) AS known (user_id, version)
        LEFT JOIN entitlements AS e ON e.user_id = known.user_id
    WHERE coalesce(e.version > known.version, known.version > 0))
SELECT {CONTENT} {FROM_DUE}
"""


async def load_risen(connection: Connection, known: Mapping[UserId, int]) -> list[Versioned]:
    """Return the documents of those users whose version is greater than the one known.

    Users who had a document and have none any more are there with a version of -1.
    """
    rows = await connection.fetch(_RISEN, list(known), list(known.values()))
    return [versioned(row) for row in await learn(connection, rows)]


@record
class Position:
    """Where publication stands: the greatest id drawn, how many documents were published, which versions are
    reserved.
    """

    sequence: int
    documents: int
    version_ceiling: int
    database: str


_POSITION = """
SELECT
    (SELECT last_value - (NOT is_called)::int FROM entitlement_versions) AS sequence,
    (SELECT count(*) FROM entitlements) - (
        SELECT count(DISTINCT e.user_id)
        FROM outbox AS o, unnest(o.users) AS of (user_id) JOIN entitlements AS e ON e.user_id = of.user_id
        WHERE o.kind IN ('rights', 'usage', 'repeat') AND o.id < e.first_version) AS documents,
    version_ceiling, database_id::text AS database
FROM installation
"""


async def load_position(connection: Connection) -> Position:
    """Return where publication stands."""
    (row,) = await connection.fetch(_POSITION)
    return Position(**row)


@record
class Published:
    """How many documents there are, and whose first one is still in the outbox."""

    documents: int
    waiting: frozenset[UUID]


_PUBLISHED = """
SELECT (SELECT count(*) FROM entitlements) AS all_documents, ARRAY(
    SELECT e.user_id FROM outbox AS o, unnest(o.users) AS of (user_id)
        JOIN entitlements AS e ON e.user_id = of.user_id
    WHERE o.kind IN ('rights', 'usage', 'repeat') AND o.id < e.first_version) AS waiting
"""


async def load_published(connection: Connection) -> Published:
    """Return how many documents there are."""
    (row,) = await connection.fetch(_PUBLISHED)
    return Published(row["all_documents"], frozenset(row["waiting"]))


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
    return int(await connection.fetchval(_RESERVE, above, block))


async def count_above(connection: Connection, version: int) -> int:
    """Count the documents with a greater version."""
    return int(await connection.fetchval("SELECT count(*) FROM entitlements WHERE version > $1", version))


_ABOVE = f"""
WITH due AS MATERIALIZED (
    SELECT user_id, version FROM entitlements WHERE version > $1 AND user_id > $2 ORDER BY user_id LIMIT $3)
SELECT {CONTENT} {FROM_DUE}
"""


async def load_above(connection: Connection, version: int, after: UUID, limit: int) -> list[Versioned]:
    """Return documents with a greater version, those of the next users after one, in order."""
    rows = await learn(connection, await connection.fetch(_ABOVE, version, after, limit))
    return [versioned(row) for row in sorted(rows, key=itemgetter(USER))]


_BETWEEN = f"""
WITH due AS MATERIALIZED (
    SELECT user_id, version FROM entitlements WHERE user_id BETWEEN $1 AND $2 AND user_id NOT IN (
        SELECT unnest(users) FROM outbox WHERE kind IN ('rights', 'usage', 'repeat')))
SELECT {CONTENT} {FROM_DUE}
"""


async def load_published_between(connection: Connection, first: UUID, last: UUID) -> dict[UserId, Versioned]:
    """Return the documents of users between two ids, both included, that do not wait to be published."""
    rows = await learn(connection, await connection.fetch(_BETWEEN, first, last))
    return {row[USER]: versioned(row) for row in rows}
