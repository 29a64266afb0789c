"""Forgets what has no use any more: deliveries of long ago, old usage, quarantined reports, old keys."""

from datetime import timedelta

from kosmo_billing_daemon.domain.metering import ACCEPTED_LATE
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.idempotency import KEPT_FOR
from kosmo_billing_daemon.store import deliveries, idempotency, leases, usage
from kosmo_billing_daemon.store.postgres import Pool

BATCH = 1000
EVERY = 3600.0  # seconds
QUARANTINE_KEPT = timedelta(days=60)
LEASES_KEPT = timedelta(days=60)
QUARANTINE_MOST = 10_000  # reports; 40 MB at most


@record(kw_only=True)
class Housekeeping:
    """Removes in batches, so that no statement takes long.

    Usage is kept for at least a day longer than it is accepted, whatever is asked: what is forgotten
    could count twice.
    """

    pool: Pool
    clock: Clock
    keep_deliveries: timedelta
    keep_usage: timedelta = timedelta(days=400)

    async def run_once(self) -> int:
        """Remove one batch of each kind; returns how many rows went."""
        now = self.clock()
        old = now - max(self.keep_usage, ACCEPTED_LATE + timedelta(days=1))
        async with self.pool.connection() as connection:
            return (
                await deliveries.remove(connection, now - self.keep_deliveries, BATCH)
                + await usage.remove_events(connection, old, BATCH)
                + await usage.remove_days(connection, old.date(), BATCH)
                + await usage.remove_quarantined(connection, now - QUARANTINE_KEPT, QUARANTINE_MOST, BATCH)
                + await leases.remove(connection, now - LEASES_KEPT, BATCH)
                + await idempotency.remove(connection, now - KEPT_FOR, BATCH)
            )
