"""How far behind the daemon is, read from the rows that wait: age tells more than a lost connection."""

import asyncio
import time
from datetime import datetime, timedelta

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import leader_lock, lookups, outbox
from kosmo_billing_daemon.store.migrations import load_lacking
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.sessions import is_read_only

TOO_OLD = 60.0
"""Seconds that a hint, a change of rights or events may wait before the daemon is not ready."""

TRIED_LATELY = timedelta(minutes=3)
"""What was set aside is tried again within a minute; not any more, and the queue stands still."""

ANSWER_WITHIN = 3.0

RIGHTS_EVERY = 3.0
"""Seconds between looks at our rights."""


@record(kw_only=True)
class Backlog:
    """Seconds that the oldest one waits, 0 when none does.

    ``error`` when the database did not answer, takes no writes, refused one a moment ago, or keeps nothing.
    ``aside`` says what the leader has set aside; it is tried again and holds up nothing. ``is_led`` says
    whether any daemon leads and is at work; None where that cannot be seen.
    """

    deliveries: float = 0.0
    aside: str | None = None
    entitlements: float = 0.0
    events: float = 0.0
    error: str | None = None
    is_led: bool | None = None

    def health(self) -> dict[str, Check]:
        """Say of each queue whether it keeps up."""
        oldest = max(self.entitlements, self.events)
        return {
            "deliveries": Check(self.deliveries <= TOO_OLD, f"oldest waits {self.deliveries:.0f} s"),
            "set_aside": Check.of(self.aside, "nothing"),
            "publishing": Check(oldest <= TOO_OLD, f"oldest waits {oldest:.0f} s"),
        }


async def read_backlog(pool: Pool, clock: Clock) -> Backlog:
    """Return how long the oldest delivery, change of rights and event have been waiting."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN), pool.connection(wait=ANSWER_WITHIN) as connection:
            queue = await lookups.load_queue(connection, clock(), clock() - TRIED_LATELY)
            rights, event = await outbox.load_oldest(connection)
            leader = await leader_lock.look(connection, pool.database.schema)
            refusal = "nothing can be written: it is read-only" if is_read_only(connection) else pool.refusal
    except (Unavailable, TimeoutError) as error:
        return Backlog(error=str(error) or "no answer in time")
    now = clock()

    def age(since: datetime | None) -> float:
        return 0.0 if since is None else max(0.0, (now - since).total_seconds())

    return Backlog(
        deliveries=age(queue.oldest),
        entitlements=age(rights),
        events=age(event),
        aside=f"{queue.aside} set aside: {queue.why}" if queue.aside else None,
        error=refusal or pool.commits.stalled,
        is_led=leader.is_exercised,
    )


class RightsWatch:
    """Looks now and then whether our role may do all that it must; an operator can take it away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._looked: float | None = None
        self._lacks: str | None = None

    async def look(self) -> str | None:
        """Return what our role lacks and what gives it, as it was at most some seconds ago."""
        now = time.monotonic()
        if self._looked is not None and now - self._looked < RIGHTS_EVERY:
            return self._lacks
        self._looked = now
        try:
            async with (
                asyncio.timeout(ANSWER_WITHIN),
                self._pool.connection(wait=ANSWER_WITHIN) as connection,
            ):
                lacking = await load_lacking(connection, self._pool.database.schema)
        except (Unavailable, TimeoutError):
            return self._lacks  # that the database is away is told elsewhere
        self._lacks = "; ".join(f"{lack.fact}: {lack.statement}" for lack in lacking) or None
        return self._lacks
