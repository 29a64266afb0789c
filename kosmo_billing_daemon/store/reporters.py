"""Gateways that are not to be believed: the cases about them, and taking back what they counted."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class ReporterCase:
    """A reporter that sent more than it may; ``detail`` is about the last report."""

    id: int
    reporter: str
    detail: str
    opened_at: datetime
    last_at: datetime


_CASES = "SELECT id, reporter, detail, opened_at, last_at FROM reporter_cases"
_OPEN = f"{_CASES} WHERE closed_at IS NULL ORDER BY opened_at LIMIT $1"


async def load_cases(connection: Connection, limit: int) -> list[ReporterCase]:
    """Return the open cases, oldest first."""
    return [ReporterCase(**row) for row in await connection.fetch(_OPEN, limit)]


_CLOSE = "UPDATE reporter_cases SET closed_at = $2 WHERE id = $1 AND closed_at IS NULL RETURNING reporter"


async def close_case(connection: Connection, number: int, now: datetime) -> str | None:
    """Close a case and return its reporter; ``None`` when there is no such open case."""
    reporter: str | None = await connection.fetchval(_CLOSE, number, now)
    return reporter


_USERS = """
SELECT DISTINCT user_id FROM usage_events
WHERE reporter = $1 AND received_at >= $2 AND voided_at IS NULL AND user_id > $3 ORDER BY user_id LIMIT $4
"""


async def load_users(
    connection: Connection, reporter: str, since: datetime, after: UUID, limit: int
) -> list[UUID]:
    """Return users beyond ``after`` for whom the reporter counted something that stands."""
    return [row["user_id"] for row in await connection.fetch(_USERS, reporter, since, after, limit)]


STANDING_COUNTED = 100_000  # usage events at most

_STANDING = f"""
SELECT count(DISTINCT user_id) AS users, coalesce(sum(count), 0)::bigint AS messages, count(*) AS events
FROM (
    SELECT user_id, count FROM usage_events WHERE received_at >= $2 AND reporter = $1 AND voided_at IS NULL
    ORDER BY received_at DESC LIMIT {STANDING_COUNTED}) AS standing
"""


@record
class StandingUsage:
    """What a reporter counted that stands; of the newest 100,000 events at most."""

    users: int
    messages: int
    events: int


async def count_standing(connection: Connection, reporter: str, since: datetime) -> StandingUsage:
    """Return what a reporter counted since then, by the time of arrival."""
    (row,) = await connection.fetch(_STANDING, reporter, since)
    return StandingUsage(**row)


_OF_REPORTER = f"{_CASES} WHERE reporter = $1 AND closed_at IS NULL"


async def find_case(connection: Connection, reporter: str) -> ReporterCase | None:
    """Return the open case about a reporter, if there is one."""
    row = await connection.fetchrow(_OF_REPORTER, reporter)
    return None if row is None else ReporterCase(**row)


async def load_case(connection: Connection, number: int) -> ReporterCase | None:
    """Return a case, open or closed."""
    row = await connection.fetchrow(f"{_CASES} WHERE id = $1", number)
    return None if row is None else ReporterCase(**row)


# A threshold that use no longer reaches is armed again, and falling below the first is announced as when a
# purchase does it. Use may have been lowered by hand meanwhile, so it ends at nothing.
_VOID = """
WITH voided AS (
    UPDATE usage_events SET voided_at = $4
    WHERE user_id = ANY ($3::uuid[]) AND reporter = $1 AND received_at >= $2 AND voided_at IS NULL
    RETURNING user_id, subscription_id, count, (sent_at AT TIME ZONE 'UTC')::date AS day
), days AS (
    UPDATE usage_days AS d SET messages = d.messages - v.count
    FROM (SELECT user_id, day, sum(count)::bigint AS count FROM voided GROUP BY user_id, day) AS v
    WHERE d.user_id = v.user_id AND d.day = v.day
), lowered AS (
    UPDATE subscriptions AS s SET messages_used = v.used,
        threshold_announced = least(v.announced, quota_threshold(v.used, s.messages_limit))
    FROM (
        SELECT o.id, o.threshold_announced AS announced, greatest(0, o.messages_used - n.count) AS used
        FROM (SELECT subscription_id, user_id, sum(count)::bigint AS count FROM voided GROUP BY 1, 2) AS n,
            LATERAL (
                SELECT * FROM subscriptions WHERE id = n.subscription_id AND user_id = n.user_id OFFSET 0
            ) AS o
    ) AS v
    WHERE s.id = v.id
    RETURNING s.id, s.quote_id, s.user_id, s.status, s.messages_used, s.messages_limit,
        s.threshold_announced = 0 AND v.announced > 0 AS is_reset
), announced AS (
    INSERT INTO events (type, user_id, data, occurred_at)
    SELECT 'quota.reset', user_id, jsonb_build_object('subscription_id', l.id, 'plan_type', plan_type,
        'messages_used', messages_used, 'messages_limit', messages_limit), $4
    FROM lowered AS l JOIN quotes AS q ON q.id = l.quote_id
    WHERE is_reset AND status IN ('active', 'grace')
)
SELECT user_id, sum(count)::bigint AS messages FROM voided GROUP BY user_id ORDER BY user_id
"""


async def void(
    connection: Connection, reporter: str, since: datetime, users: Sequence[UUID], now: datetime
) -> dict[UUID, int]:
    """Take back what a reporter counted for these users since then; returns how many messages of each.

    Their subscriptions must be locked. What is taken back already is not taken back again.
    """
    rows = await connection.fetch(_VOID, reporter, since, users, now)
    return {row["user_id"]: row["messages"] for row in rows}
