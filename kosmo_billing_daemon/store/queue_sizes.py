"""What waits, counted for metrics: each a look at an index, and never more than 10,000 rows of it."""

from datetime import datetime

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection

_WAITING = """
SELECT
    (SELECT count(hinted_at) FROM (
        SELECT hinted_at FROM lookups WHERE due_at <= $1 ORDER BY due_at LIMIT 10000) AS d) AS deliveries,
    (SELECT count(DISTINCT user_id) FROM (
        SELECT unnest(users) AS user_id FROM outbox WHERE kind IN ('rights', 'usage', 'repeat') LIMIT 10000
    ) AS e) AS entitlements,
    (SELECT count(*) FROM (
        SELECT unnest(events) FROM outbox WHERE kind = 'event' LIMIT 10000) AS n) AS events,
    (SELECT count(*) FROM (
        SELECT FROM attention_cases WHERE closed_at IS NULL
        UNION ALL SELECT FROM reporter_cases WHERE closed_at IS NULL LIMIT 10000) AS a) AS attention,
    (SELECT count(*) FROM (
        SELECT FROM attention_cases WHERE closed_at IS NULL AND kind = 'unknown_order' LIMIT 10000
    ) AS o) AS unknown_orders,
    (SELECT count(*) FROM (SELECT FROM usage_quarantine LIMIT 10000) AS q) AS quarantine,
    (SELECT count(*) FROM (SELECT FROM hook_deliveries LIMIT 10000) AS h) AS hook_events,
    (SELECT count(*) FROM hooks WHERE off_since IS NULL AND failures = 0) AS hooks_on,
    (SELECT count(*) FROM hooks WHERE off_since IS NULL AND failures > 0) AS hooks_failing,
    (SELECT count(*) FROM hooks WHERE off_since IS NOT NULL) AS hooks_off,
    (SELECT next_deadline FROM subscriptions WHERE next_deadline IS NOT NULL
     ORDER BY next_deadline LIMIT 1) AS earliest_deadline,
    (SELECT extract(epoch FROM max(received_at - sent_at))::float8 FROM (
        SELECT received_at, sent_at FROM usage_events
        WHERE received_at > $1::timestamptz - interval '5 minutes'
        ORDER BY received_at DESC LIMIT 500) AS u) AS usage_lag
"""


@record(kw_only=True)
class QueueSizes:
    """How many rows wait; ``earliest_deadline`` of a current subscription; ``usage_lag`` is in seconds."""

    deliveries: int
    entitlements: int
    events: int
    attention: int
    unknown_orders: int
    quarantine: int
    hook_events: int
    hooks_on: int
    hooks_failing: int
    hooks_off: int
    earliest_deadline: datetime | None
    usage_lag: float | None


async def load_waiting(connection: Connection, now: datetime) -> QueueSizes:
    """Return what waits now."""
    (row,) = await connection.fetch(_WAITING, now)
    return QueueSizes(**row)
