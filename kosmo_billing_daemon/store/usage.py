"""Usage in and out: each message counted once, on the subscription that was valid when it was sent."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import UUID

import asyncpg

from kosmo_billing_daemon.domain.metering import UsageDecision
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.errors import RetryTransaction
from kosmo_billing_daemon.store.postgres import Connection, changed


@record(kw_only=True)
class UsageRows:
    """The events of several reports, column by column; ``report`` is the place in ``reporters``."""

    user_id: Sequence[str]
    message_id: Sequence[str]
    node_id: Sequence[str | None]
    count: Sequence[int]
    sent_at: Sequence[datetime]
    report: Sequence[int]
    reporters: Sequence[str]
    lease_id: Sequence[str | None] = ()


@record(kw_only=True)
class Quarantined:
    """A report that is not counted: why, and the beginning of it (at most 4 KiB).

    One that ``is_too_much`` opens a case about its reporter.
    """

    reporter: str
    reason: str
    payload: bytes
    size: int
    is_too_much: bool = False


@record
class DayOfUse:
    """Messages counted on one day (UTC)."""

    day: date
    messages: int


@record(kw_only=True)
class CountedEvent:
    """One counted message, as its user may see it."""

    message_id: str
    node_id: str | None
    count: int
    sent_at: datetime
    decision: UsageDecision
    subscription_id: UUID | None


# The last part has no rows, and locks: what nothing reads is not carried out.
_LOCK = """
WITH locked AS MATERIALIZED (
    SELECT FROM subscriptions WHERE user_id = ANY ($1::uuid[]) AND status IN ('active', 'grace')
    ORDER BY user_id FOR UPDATE)
SELECT user_id FROM erased_among($1) AS e (user_id)
UNION ALL SELECT NULL FROM locked HAVING count(*) < 0
"""


async def lock_counters(connection: Connection, users: Iterable[str]) -> set[str]:
    """Lock the current subscription of each user, in the order of every other writer.

    Before ``count`` and apart from it: what a purchase changed while we waited must be seen there. Returns
    those users who were erased, of whom nothing may be counted.
    """
    return {str(row["user_id"]) for row in await connection.fetch(_LOCK, list(users))}


# One statement: its parts see one moment, and nothing of a message comes to Python again. Sorted by
# the user, which keeps neighbours in the indexes together and writers with the same messages in step.
# LIMIT keeps each lookup one of an index, whatever the planner believes of the tables' sizes.
# What begins in the future was bought before the clock was set back, and is valid already.
_TEMPLATE = """
WITH incoming AS MATERIALIZED (
    SELECT DISTINCT ON (user_id, message_id) user_id, message_id, node_id, count,
        least(to_timestamp(sent_at), $8) AS sent_at, report{lease_column}
    FROM unnest($1::uuid[], $2::text[] COLLATE "C", $3::text[], $4::integer[], $5::float8[], $6::integer[]
        {lease_argument}) WITH ORDINALITY AS row (
            user_id, message_id, node_id, count, sent_at, report{lease_column}, place)
    ORDER BY user_id, message_id, place
), fresh AS MATERIALIZED (
    SELECT i.*, {subscription}
    FROM incoming AS i LEFT JOIN LATERAL (
        SELECT true AS is_known FROM usage_events
        WHERE message_id = i.message_id AND user_id = i.user_id LIMIT 1
    ) AS e ON true LEFT JOIN LATERAL (
        SELECT id, messages_used >= messages_limit AS is_used_up FROM subscriptions
        WHERE user_id = i.user_id AND least(valid_from, $8) <= i.sent_at
            AND i.sent_at < coalesce(ended_at, grace_until, valid_until)
        ORDER BY number DESC LIMIT 1
    ) AS s ON true {lease}
    WHERE is_known IS NULL
), counted AS (
    INSERT INTO usage_events (
        user_id, message_id, subscription_id, node_id, reporter, count, over_limit, sent_at, received_at)
    SELECT user_id, message_id, subscription_id, node_id, ($7::text[])[report + 1], count, over_limit,
        sent_at, $8
    FROM fresh
), days AS (
    INSERT INTO usage_days AS d (user_id, day, messages)
    SELECT user_id, (sent_at AT TIME ZONE 'UTC')::date AS day, sum(count) FROM fresh
    GROUP BY user_id, day ORDER BY user_id, day
    ON CONFLICT (user_id, day) DO UPDATE SET messages = d.messages + EXCLUDED.messages
), added AS (
    UPDATE subscriptions AS s SET messages_used = s.messages_used + c.count
    FROM (
        SELECT subscription_id, sum(count)::bigint AS count FROM fresh
        WHERE subscription_id IS NOT NULL GROUP BY subscription_id
    ) AS c
    WHERE s.id = c.subscription_id
    RETURNING s.id,
        s.messages_used > s.messages_limit AND s.messages_used - c.count < s.messages_limit AS ran_over
){taken}
SELECT report, count(*) AS accepted, NULL::uuid AS ran_over FROM fresh GROUP BY report
UNION ALL SELECT NULL, NULL, id FROM added WHERE ran_over
"""
_COUNT = _TEMPLATE.format(
    lease_column="",
    lease_argument="",
    subscription="s.id AS subscription_id, coalesce(s.is_used_up, false) AS over_limit",
    lease="",
    taken="",
)
# A message let through by a lease counts for the lease's subscription, which has set it apart. Apart from the
# other, since most reports name none.
_COUNT_LEASED = _TEMPLATE.format(
    lease_column=", lease_id",
    lease_argument=", $9::uuid[]",
    subscription="coalesce(l.subscription_id, s.id) AS subscription_id,"
    " l.id IS NULL AND coalesce(s.is_used_up, false) AS over_limit, l.id AS taken_from",
    lease="""LEFT JOIN LATERAL (
        SELECT id, subscription_id FROM leases
        WHERE id = i.lease_id AND user_id = i.user_id AND reporter = ($7::text[])[i.report + 1] LIMIT 1
    ) AS l ON true""",
    taken=""", taken AS (
    UPDATE leases AS l SET used = l.used + c.count
    FROM (SELECT taken_from, sum(count)::bigint AS count FROM fresh WHERE taken_from IS NOT NULL
        GROUP BY taken_from) AS c
    WHERE l.id = c.taken_from AND l.id = ANY ($9)
)""",
)


async def count(connection: Connection, columns: UsageRows, now: datetime) -> list[int]:
    """Count events that were never counted; returns how many of each report were.

    The counters must be locked. Thresholds are announced and versions raised by trigger. Raises
    ``RetryTransaction`` when another writer has counted one of the events at the same moment.
    """
    # asyncpg needs a fifth of the time for numbers that it needs for times.
    sent_at = [at.timestamp() for at in columns.sent_at]
    leases = [columns.lease_id] if any(columns.lease_id) else []
    try:
        rows = await connection.fetch(
            _COUNT_LEASED if leases else _COUNT,
            columns.user_id,
            columns.message_id,
            columns.node_id,
            columns.count,
            sent_at,
            columns.report,
            columns.reporters,
            now,
            *leases,
        )
    except asyncpg.UniqueViolationError as error:
        raise RetryTransaction("another writer counted the same message") from error
    accepted = [0] * len(columns.reporters)
    ran_over: list[UUID] = []
    for row in rows:
        if row["report"] is None:
            ran_over.append(row["ran_over"])
        else:
            accepted[row["report"]] = row["accepted"]
    if ran_over:
        await connection.execute(_MARK_OVER_LIMIT, ran_over)
    return accepted


# Where the limit lies within a batch: counted back from what is used now, so that use counted by
# others without events shifts nothing.
_MARK_OVER_LIMIT = """
UPDATE usage_events AS u SET over_limit = true
FROM (
    SELECT e.user_id, e.message_id, s.messages_used - s.messages_limit - coalesce(sum(e.count) OVER (
        PARTITION BY s.id ORDER BY e.received_at DESC, e.sent_at DESC, e.message_id DESC
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS over
    FROM subscriptions AS s, LATERAL (
        SELECT * FROM usage_events WHERE user_id = s.user_id AND subscription_id = s.id OFFSET 0) AS e
    WHERE s.id = ANY ($1::uuid[]) AND e.voided_at IS NULL
) AS row
WHERE row.over > 0 AND u.user_id = row.user_id AND u.message_id = row.message_id
"""


_QUARANTINED = Columns(
    ("reporter", "text", "reporter"),
    ("reason", "text", "reason"),
    ("payload", "bytea", "payload"),
    ("size", "integer", "size"),
)
_QUARANTINE = _QUARANTINED.insert("usage_quarantine", {"received_at": "$5"})


async def append_quarantine(connection: Connection, reports: Sequence[Quarantined], now: datetime) -> None:
    """Keep what could not be read."""
    if reports:
        await connection.execute(_QUARANTINE, *_QUARANTINED.values(reports), now)
        if too_much := {report.reporter: report.reason for report in reports if report.is_too_much}:
            await connection.execute(_OPEN_CASE, [*too_much], [*too_much.values()], now)


_OPEN_CASE = """
INSERT INTO reporter_cases AS c (reporter, detail, opened_at, last_at)
SELECT reporter, detail, $3, $3 FROM unnest($1::text[], $2::text[]) AS row (reporter, detail)
ON CONFLICT (reporter) WHERE closed_at IS NULL
    DO UPDATE SET detail = EXCLUDED.detail, last_at = greatest(c.last_at, EXCLUDED.last_at)
"""


_DAYS = "SELECT day, messages FROM usage_days WHERE user_id = $1 AND day BETWEEN $2 AND $3 ORDER BY day"


async def load_days(connection: Connection, user_id: UUID, first: date, last: date) -> list[DayOfUse]:
    """Return a user's days with messages, both ends included, oldest first."""
    return [DayOfUse(**row) for row in await connection.fetch(_DAYS, user_id, first, last)]


_LATEST = """
SELECT message_id, node_id, count, sent_at, subscription_id, CASE WHEN subscription_id IS NULL
    THEN 'no_subscription' WHEN over_limit THEN 'over_limit' ELSE 'counted' END AS decision
FROM usage_events WHERE user_id = $1 AND voided_at IS NULL ORDER BY sent_at DESC LIMIT $2
"""


async def load_latest(connection: Connection, user_id: UUID, limit: int) -> list[CountedEvent]:
    """Return a user's last messages, newest first."""
    rows = await connection.fetch(_LATEST, user_id, limit)
    return [CountedEvent(**dict(row) | {"decision": UsageDecision(row["decision"])}) for row in rows]


_REMOVE_EVENTS = """
DELETE FROM usage_events WHERE (user_id, message_id) IN (
    SELECT user_id, message_id FROM usage_events WHERE received_at < $1 ORDER BY received_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
"""


async def remove_events(connection: Connection, before: datetime, limit: int) -> int:
    """Forget messages that came long ago; returns how many.

    ``before`` must be further back than messages are accepted, else one could count twice.
    """
    return changed(await connection.execute(_REMOVE_EVENTS, before, limit))


_REMOVE_DAYS = """
DELETE FROM usage_days WHERE (user_id, day) IN (
    SELECT user_id, day FROM usage_days WHERE day < $1 ORDER BY day LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def remove_days(connection: Connection, before: date, limit: int) -> int:
    """Forget the sums of days long past; returns how many."""
    return changed(await connection.execute(_REMOVE_DAYS, before, limit))


_REMOVE_QUARANTINE = """
DELETE FROM usage_quarantine WHERE id IN (
    SELECT id FROM usage_quarantine
    WHERE received_at < $1
        OR id <= (SELECT id FROM usage_quarantine ORDER BY id DESC OFFSET $2 LIMIT 1)
    ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED)
"""


async def remove_quarantined(connection: Connection, before: datetime, newest: int, limit: int) -> int:
    """Forget quarantined reports that are old, or not among the ``newest``; returns how many."""
    return changed(await connection.execute(_REMOVE_QUARANTINE, before, newest, limit))
