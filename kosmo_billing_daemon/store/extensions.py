"""Time that operators gave, and who got it already."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from kosmo_billing_daemon.domain.subscriptions import SubscriptionId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.subscriptions import ended_since


@record(kw_only=True)
class Extension:
    """So many days for a reason; ``all_at`` is since when everybody is meant who had a plan then."""

    id: UUID
    days: int
    reason: str
    begun_at: datetime
    all_at: datetime | None
    users: int


_SELECT = """
SELECT id, days, reason, begun_at, all_at, (
    SELECT count(*) FROM extended_users AS u WHERE u.extension_id = e.id) AS users
FROM extensions AS e
"""
_FIND = f"{_SELECT} WHERE reason = $1 AND days = $2"
_BEFORE = f"{_SELECT} WHERE all_at > $1 AND id <> $2 ORDER BY all_at"


async def find(connection: Connection, reason: str, days: int) -> Extension | None:
    """Return the extension of so many days for this reason, if one was begun."""
    row = await connection.fetchrow(_FIND, reason, days)
    return None if row is None else Extension(**row)


_BEGIN = """
INSERT INTO extensions AS e (id, days, reason, begun_at, all_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (reason, days) DO UPDATE SET all_at = coalesce(e.all_at, EXCLUDED.all_at)
RETURNING id, days, reason, begun_at, all_at, 0 AS users
"""


async def begin(
    connection: Connection, extension_id: UUID, days: int, reason: str, now: datetime, *, everybody: bool
) -> Extension:
    """Begin an extension, or return the one that was begun for the same reason."""
    all_at = now if everybody else None
    (row,) = await connection.fetch(_BEGIN, extension_id, days, reason, now, all_at)
    return Extension(**row)


_EXTENDED = "SELECT user_id, at FROM extended_users WHERE user_id = ANY ($2::uuid[]) AND extension_id = $1"


async def load_extended(
    connection: Connection, extension_id: UUID, users: Iterable[UUID]
) -> dict[UserId, datetime]:
    """Return which of these users got it already, and when."""
    rows = await connection.fetch(_EXTENDED, extension_id, list(users))
    return {row["user_id"]: row["at"] for row in rows}


_NOTE = """
INSERT INTO extended_users (extension_id, user_id, subscription_id, at)
SELECT $1, row.user_id, row.subscription_id, $4
FROM unnest($2::uuid[], $3::uuid[]) AS row (user_id, subscription_id)
"""


def note_statement(
    extension_id: UUID, extended: Sequence[tuple[UserId, SubscriptionId]], now: datetime
) -> Statement | None:
    """Note who got it; whoever got it before breaks a constraint."""
    return Statement(_NOTE, [extension_id, *zip(*extended, strict=True), now]) if extended else None


# Who had a plan when it was begun: also who bought another one since, but nobody who came later.
_MEANT = """
s.status IN ('active', 'grace')
AND (s.valid_from <= $1 OR (
    SELECT true FROM subscriptions AS b
    WHERE b.user_id = s.user_id AND b.valid_from <= $1 AND b.ended_at > $1 LIMIT 1))
AND NOT EXISTS (SELECT FROM extended_users AS u WHERE u.user_id = s.user_id AND u.extension_id = $2)
"""

# Whose plan ended since then, with messages left, and who bought none after it.
_ENDED = f"""
{ended_since("s", "$1")}
AND NOT EXISTS (SELECT FROM extended_users AS u WHERE u.user_id = s.user_id AND u.extension_id = $2)
"""

_LEFT = f"""
SELECT s.user_id FROM subscriptions AS s WHERE {_MEANT} AND s.user_id > $3 ORDER BY s.user_id LIMIT $4
"""
_LEFT_ENDED = f"""
SELECT s.user_id FROM subscriptions AS s WHERE {_ENDED} AND s.user_id > $3 ORDER BY s.user_id LIMIT $4
"""


@record
class Meant:
    """Who gets an extension: those who had a plan when all were meant, or whose plan ended ``since``."""

    extension_id: UUID
    all_at: datetime
    since: datetime | None


async def load_left(
    connection: Connection, meant: Meant, after: UUID, limit: int, *, is_over: bool
) -> list[UserId]:
    """Return who is meant and did not get it yet, by id: who has a plan, or whose plan ``is_over``."""
    at = meant.since if is_over else meant.all_at
    rows = await connection.fetch(_LEFT_ENDED if is_over else _LEFT, at, meant.extension_id, after, limit)
    return [row["user_id"] for row in rows]


@record(kw_only=True)
class PlanToExtend:
    """Users of one plan who are meant: how many, between which ends, and how many end beyond a time.

    A plan that ``is_over`` goes on from now, so now is its end.
    """

    plan_type: str
    users: int
    first_end: datetime
    last_end: datetime
    beyond: int
    is_over: bool


_SUMMED_UP = """
SELECT q.plan_type, count(*) AS users, min({until}) AS first_end, max({until}) AS last_end,
    count(*) FILTER (WHERE {until} > $3) AS beyond
FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id
WHERE {meant}
GROUP BY q.plan_type ORDER BY q.plan_type
"""
_BY_PLAN = _SUMMED_UP.format(until="s.valid_until", meant=_MEANT)
_ENDED_BY_PLAN = _SUMMED_UP.format(until="$4::timestamptz", meant=_ENDED)


async def load_by_plan(
    connection: Connection, meant: Meant, beyond: datetime, now: datetime
) -> list[PlanToExtend]:
    """Return who is meant, by plan; ends are those before the extension."""
    rows = await connection.fetch(_BY_PLAN, meant.all_at, meant.extension_id, beyond)
    found = [PlanToExtend(**row, is_over=False) for row in rows]
    if meant.since is not None:
        rows = await connection.fetch(_ENDED_BY_PLAN, meant.since, meant.extension_id, beyond, now)
        found += [PlanToExtend(**row, is_over=True) for row in rows]
    return found


async def load_before(connection: Connection, since: timedelta, now: datetime, but: UUID) -> list[Extension]:
    """Return what else everybody got lately."""
    return [Extension(**row) for row in await connection.fetch(_BEFORE, now - since, but)]
