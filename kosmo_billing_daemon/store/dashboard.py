"""What an operator sees first: subscriptions by plan, and what gateways hold and let pass."""

from datetime import datetime

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection

MOST_EVENTS = 10_000
"""Usage events read to see what gateways let pass lately."""


@record(kw_only=True)
class CurrentOfPlan:
    """How many users have a plan now, and for how many of them it ends soon."""

    plan_type: str
    users: int
    ending: int


_CURRENT = """
SELECT q.plan_type, sum(c.users)::bigint AS users, sum(c.ending)::bigint AS ending
FROM (
    SELECT quote_id, count(*) AS users, count(*) FILTER (WHERE valid_until <= $1) AS ending
    FROM subscriptions WHERE status IN ('active', 'grace') GROUP BY quote_id
) AS c JOIN quotes AS q ON q.id = c.quote_id
GROUP BY 1 ORDER BY 2 DESC, 1
"""


async def load_current(connection: Connection, ending_before: datetime) -> list[CurrentOfPlan]:
    """Return how many users have each plan now, the most frequent plan first."""
    return [CurrentOfPlan(**row) for row in await connection.fetch(_CURRENT, ending_before)]


@record(kw_only=True)
class GatewayActivity:
    """A gateway: what its leases still hold, and what it reported lately, for how many ``users``."""

    reporter: str
    held: int
    holds_until: datetime | None
    counted: int
    over_limit: int
    users: int
    last_report: datetime | None
    parked: int
    open_cases: int


_GATEWAYS = """
WITH held AS (
    SELECT reporter, sum(messages - used)::bigint AS held, max(expires_at) AS holds_until
    FROM (  -- in the order of the index of what is outstanding, so that it is read by that index
        SELECT reporter, messages, used, expires_at FROM leases WHERE used < messages
        ORDER BY subscription_id OFFSET 0
    ) AS l WHERE expires_at > $1 GROUP BY reporter
), lately AS (
    SELECT reporter, sum(counted)::bigint AS counted, sum(over_limit)::bigint AS over_limit,
        count(*) AS users, max(last_report) AS last_report
    FROM (
        SELECT reporter, user_id, sum(count) AS counted, sum(count) FILTER (WHERE over_limit) AS over_limit,
            max(received_at) AS last_report
        FROM (
            SELECT reporter, count, over_limit, user_id, received_at FROM usage_events
            WHERE received_at > $2 AND voided_at IS NULL ORDER BY received_at DESC LIMIT $3
        ) AS e GROUP BY reporter, user_id
    ) AS u GROUP BY reporter
), parked AS (
    SELECT reporter, count(*) AS parked FROM parked_reports GROUP BY reporter
), cases AS (
    SELECT reporter, count(*) AS open_cases FROM reporter_cases WHERE closed_at IS NULL GROUP BY reporter
)
SELECT reporter, coalesce(held, 0) AS held, holds_until, coalesce(counted, 0) AS counted,
    coalesce(over_limit, 0) AS over_limit, coalesce(users, 0) AS users, last_report,
    coalesce(parked, 0) AS parked, coalesce(open_cases, 0) AS open_cases
FROM held FULL JOIN lately USING (reporter) FULL JOIN parked USING (reporter) FULL JOIN cases USING (reporter)
ORDER BY reporter LIMIT $4
"""


async def load_gateways(
    connection: Connection, now: datetime, since: datetime, limit: int
) -> list[GatewayActivity]:
    """Return the gateways that hold leases or reported usage since then, by name."""
    rows = await connection.fetch(_GATEWAYS, now, since, MOST_EVENTS, limit)
    return [GatewayActivity(**row) for row in rows]
