"""How the shop does, on one screen: money, subscriptions, what waits, and the gateways."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.backlog import Backlog, read_backlog
from kosmo_billing_daemon.store import dashboard, figures, listings, queue_sizes
from kosmo_billing_daemon.store.dashboard import MOST_EVENTS, CurrentOfPlan, GatewayActivity
from kosmo_billing_daemon.store.figures import TakingsOfDay
from kosmo_billing_daemon.store.listings import ListedCase
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.queue_sizes import QueueSizes

DAYS: Final = 30
ENDING_DAYS: Final = 7
LATELY: Final = timedelta(hours=1)
MOST_CASES: Final = 5
MOST_GATEWAYS: Final = 100


@record(kw_only=True)
class Dashboard:
    """The shop at ``now``. ``takings`` are of the days from ``since`` to today; ``cases`` are the oldest.

    ``gateways`` are as the newest ``most_events`` messages of the last hour say.
    """

    now: datetime
    since: date
    takings: Sequence[TakingsOfDay]
    current: Sequence[CurrentOfPlan]
    waiting: QueueSizes
    backlog: Backlog
    cases: Sequence[ListedCase]
    gateways: Sequence[GatewayActivity]
    most_events: int = MOST_EVENTS


async def load(pool: Pool, clock: Clock) -> Dashboard:
    """Read everything the first page shows."""
    now = clock()
    since = now.date() - timedelta(days=DAYS - 1)
    backlog = await read_backlog(pool, clock)
    async with pool.connection() as connection:
        return Dashboard(
            now=now,
            since=since,
            takings=await figures.load_takings(connection, since),
            current=await dashboard.load_current(connection, now + timedelta(days=ENDING_DAYS)),
            waiting=await queue_sizes.load_waiting(connection, now),
            backlog=backlog,
            cases=await listings.load_open_cases(connection, MOST_CASES),
            gateways=await dashboard.load_gateways(connection, now, now - LATELY, MOST_GATEWAYS),
        )
