"""How far behind the daemon is, read from the rows that wait: age tells more than a lost connection."""

import asyncio
from datetime import datetime

from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.store import deliveries, entitlements, events
from kosmo_billing_daemon.store.postgres import Pool

TOO_OLD = 60.0
"""Seconds that a hint, a change of rights or news may wait before the daemon is not ready."""

ANSWER_WITHIN = 3.0


@record(kw_only=True)
class Backlog:
    """Seconds that the oldest one waits, 0 when none does.

    ``error`` when the database did not answer, refused to write a moment ago, or keeps nothing.
    """

    deliveries: float = 0.0
    entitlements: float = 0.0
    events: float = 0.0
    error: str | None = None


async def read_backlog(pool: Pool, clock: Clock) -> Backlog:
    """Return how long the oldest delivery, document and event have been waiting."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN), pool.connection(wait=ANSWER_WITHIN) as connection:
            ages = (
                await deliveries.oldest_unhandled(connection),
                await entitlements.oldest_waiting(connection),
                await events.oldest_unpublished(connection),
            )
    except (Unavailable, TimeoutError) as error:
        return Backlog(error=str(error) or "no answer in time")
    now = clock()

    def age(since: datetime | None) -> float:
        return 0.0 if since is None else max(0.0, (now - since).total_seconds())

    return Backlog(
        deliveries=age(ages[0]),
        entitlements=age(ages[1]),
        events=age(ages[2]),
        error=pool.refusal or pool.commits.stalled,
    )
