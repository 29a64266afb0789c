"""How far behind the daemon is, read from the rows that wait: age tells more than a lost connection."""

import asyncio
import time
from datetime import datetime, timedelta

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import deliveries, entitlements, events, leader_lock, locks
from kosmo_billing_daemon.store.migrations import load_lacking
from kosmo_billing_daemon.store.postgres import Connection, Pool
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


async def read_backlog(pool: Pool, clock: Clock) -> Backlog:
    """Return how long the oldest delivery, document and event have been waiting, and for whom."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN), pool.connection(wait=ANSWER_WITHIN) as connection:
            queue = await deliveries.load_queue(connection, clock() - TRIED_LATELY)
            ages: Ages = (
                queue.oldest,
                await entitlements.oldest_waiting(connection),
                await events.oldest_unpublished(connection),
            )
            asides = [f"{queue.aside} set aside: {queue.why}"] if queue.aside else []
            if not is_read_only(connection):
                ages, held = await _but_held(connection, ages, clock() - timedelta(seconds=TOO_OLD))
                asides += held
            leader = await leader_lock.look(connection, pool.database.schema)
            refusal = "nothing can be written: it is read-only" if is_read_only(connection) else pool.refusal
    except (Unavailable, TimeoutError) as error:
        return Backlog(error=str(error) or "no answer in time")
    now = clock()

    def age(since: datetime | None) -> float:
        return 0.0 if since is None else max(0.0, (now - since).total_seconds())

    return Backlog(
        deliveries=age(ages[0]),
        entitlements=age(ages[1]),
        events=age(ages[2]),
        aside="; ".join(asides) or None,
        error=refusal or pool.commits.stalled,
        is_led=leader.is_exercised,
    )


Ages = tuple[datetime | None, datetime | None, datetime | None]


async def _but_held(connection: Connection, ages: Ages, late: datetime) -> tuple[Ages, list[str]]:
    """Leave out documents and events that are late because somebody else holds their rows; say who does."""
    delivery, document, event = ages
    held: list[str] = []
    if document is not None and document < late:
        document = await entitlements.oldest_free_waiting(connection)
        if document is None or document > late:
            held.append("documents")
    if event is not None and event < late:
        event = await events.oldest_free_unpublished(connection)
        if event is None or event > late:
            held.append("events")
    if not held:
        return (delivery, document, event), []
    holder = await locks.find_holder(connection)
    told = [] if holder is None else [f"{' and '.join(held)} wait for rows locked by {holder}"]
    return (delivery, document, event), told


class RightsWatch:
    """Looks now and then whether our role may do all that it must; an operator can take it away."""

    def __init__(self, pool: Pool, *, every: float = RIGHTS_EVERY) -> None:
        self._pool = pool
        self._every = every
        self._looked: float | None = None
        self._lacks: str | None = None

    async def look(self) -> str | None:
        """Return what our role lacks and what gives it, as it was at most some seconds ago."""
        now = time.monotonic()
        if self._looked is not None and now - self._looked < self._every:
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
