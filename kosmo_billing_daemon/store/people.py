"""Lists of users, page after page: each walk goes along an index, and continues after the last user."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from kosmo_billing_daemon.domain.entitlements import Entitlement
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.entitlements import CONTENT, FROM_DUE, USER, WIDTH, versioned
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.quotes import learn, plan

NEVER = datetime(9999, 1, 1, tzinfo=UTC)


@record(kw_only=True)
class Wanted:
    """What is asked of a user's current subscription; the defaults ask nothing."""

    quotes: Sequence[UUID] | None = None
    ends_before: datetime = NEVER
    exhausted: bool = False


_OF_CURRENT = "($3::uuid[] IS NULL OR s.quote_id = ANY ($3)) AND s.valid_until <= $4"
_CURRENT = "s.status IN ('active', 'grace')"

_BY_USER = """
SELECT user_id FROM entitlements WHERE user_id > $1 ORDER BY user_id LIMIT $2
"""


async def load_all(connection: Connection, after: UUID, limit: int) -> list[UserId]:
    """Return users who ever had a plan, in the order of their ids."""
    return [row["user_id"] for row in await connection.fetch(_BY_USER, after, limit)]


_LAPSED = """
SELECT e.user_id FROM entitlements AS e
WHERE e.user_id > $1 AND NOT EXISTS (
    SELECT FROM subscriptions AS s
    WHERE s.user_id = e.user_id AND s.user_id > $1 AND s.status IN ('active', 'grace'))
ORDER BY e.user_id LIMIT $2
"""


async def load_lapsed(connection: Connection, after: UUID, limit: int) -> list[UserId]:
    """Return users who had a plan and have none now, in the order of their ids."""
    return [row["user_id"] for row in await connection.fetch(_LAPSED, after, limit)]


_BY_END = f"""
SELECT s.user_id, s.valid_until FROM subscriptions AS s
WHERE {_CURRENT} AND (s.valid_until, s.user_id) > ($5::timestamptz, $1) AND {_OF_CURRENT}
ORDER BY s.valid_until, s.user_id LIMIT $2
"""


async def load_by_end(
    connection: Connection, wanted: Wanted, after: tuple[datetime, UUID], limit: int
) -> list[tuple[datetime, UserId]]:
    """Return users with a current subscription and its end, the next to end first."""
    ends_after, user_id = after
    rows = await connection.fetch(_BY_END, user_id, limit, wanted.quotes, wanted.ends_before, ends_after)
    return [(row["valid_until"], row["user_id"]) for row in rows]


_EXHAUSTED = f"""
SELECT s.user_id FROM subscriptions AS s
WHERE {_CURRENT} AND s.threshold_announced = 100 AND s.messages_used >= s.messages_limit
    AND s.user_id > $1 AND {_OF_CURRENT}
ORDER BY s.user_id LIMIT $2
"""


async def load_exhausted(connection: Connection, wanted: Wanted, after: UUID, limit: int) -> list[UserId]:
    """Return users who have used all their messages, in the order of their ids."""
    rows = await connection.fetch(_EXHAUSTED, after, limit, wanted.quotes, wanted.ends_before)
    return [row["user_id"] for row in rows]


_OF_CASES = f"""
SELECT DISTINCT c.user_id FROM attention_cases AS c
    LEFT JOIN subscriptions AS s ON s.user_id = c.user_id AND {_CURRENT}
WHERE c.closed_at IS NULL AND c.user_id > $1 AND (s.user_id IS NULL OR {_OF_CURRENT})
    AND (NOT $5::boolean OR s.messages_used >= s.messages_limit)
    AND ($6::boolean IS NULL OR (s.user_id IS NOT NULL) = $6)
ORDER BY c.user_id LIMIT $2
"""


async def load_with_cases(
    connection: Connection, wanted: Wanted, after: UUID, limit: int, *, has_plan: bool | None
) -> list[UserId]:
    """Return users of open cases, in the order of their ids; on request only those with or without a plan."""
    rows = await connection.fetch(
        _OF_CASES, after, limit, wanted.quotes, wanted.ends_before, wanted.exhausted, has_plan
    )
    return [row["user_id"] for row in rows]


@record(kw_only=True)
class Described:
    """What a user may do now, the plan that the user has or had last, and how many cases are open."""

    entitlement: Entitlement
    plan_type: str | None
    open_cases: int


_DESCRIBE = f"""
WITH due AS MATERIALIZED (SELECT user_id, 0::bigint AS version FROM unnest($1::uuid[]) AS u (user_id))
SELECT {CONTENT}, (
    SELECT count(*) FROM attention_cases AS c WHERE c.user_id = due.user_id AND c.closed_at IS NULL) AS cases
{FROM_DUE}
"""


async def describe(connection: Connection, users: Sequence[UUID]) -> dict[UserId, Described]:
    """Return how these users stand; whoever never had a plan is described too."""
    rows = await learn(connection, await connection.fetch(_DESCRIBE, list(users)))
    return {
        row[USER]: Described(
            entitlement=versioned(row).entitlement,
            plan_type=None if row["quote_id"] is None else plan(row["quote_id"]).plan_type,
            open_cases=row[WIDTH],
        )
        for row in rows
    }
