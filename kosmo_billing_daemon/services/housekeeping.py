"""Forgets what has no use any more: old deliveries, usage, reports, events, unpaid invoices, lapsed users.

The rule it keeps: money stays, and nothing goes that a rule may still need. Late usage counts for seven days,
late payments for 72 hours (R6), marks at BTCPay as long (R8); refunds and reversals are about invoices with
money, which are kept for ever. The settings' least values are above those times.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from kosmo_billing_daemon.domain.metering import ACCEPTED_LATE
from kosmo_billing_daemon.errors import Locked
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.idempotency import KEPT_FOR
from kosmo_billing_daemon.services.whitelist import WINDOW
from kosmo_billing_daemon.settings import Retention
from kosmo_billing_daemon.store import deliveries, erasures, idempotency, leases, pruning, usage
from kosmo_billing_daemon.store.postgres import Connection, Pool
from kosmo_billing_daemon.store.pruning import Prune

log = logging.getLogger(__name__)

BATCH = 1000
PAGE = 2000
"""Rows that are looked at each hour where no index tells their age: 20 ms, and a million in three weeks."""

EVERY = 3600.0  # seconds
QUARANTINE_KEPT = timedelta(days=60)
LEASES_KEPT = timedelta(days=60)
QUARANTINE_MOST = 10_000  # reports; 40 MB at most

ERASED_KEPT = timedelta(days=30)
"""How long users who were erased are refused: gates may report for seven days, front ends ask for longer."""


@dataclass(slots=True)
class _Walk:
    """Goes through a table for ever, page by page; begins anywhere, so that restarts leave nothing out."""

    prune: Prune
    first: Any
    start: Callable[[], Any]
    _after: Any = None

    async def step(self, connection: Connection, before: datetime) -> int:
        """Prune one page, and return how many rows went; at the end the next step begins anew."""
        after = self.start() if self._after is None else self._after
        page = await self.prune(connection, after, before, PAGE)
        self._after = self.first if page.last is None else page.last
        return page.removed


def _by_id(prune: Prune) -> _Walk:
    return _Walk(prune, UUID(int=0), uuid4)


@record(kw_only=True)
class Housekeeping:
    """Removes in batches, so that no statement takes long.

    Usage is kept for at least a day longer than it is accepted, whatever is asked: what is forgotten
    could count twice.
    """

    pool: Pool
    clock: Clock
    retention: Retention
    _documents: _Walk = field(default_factory=lambda: _by_id(pruning.documents))
    _invoices: _Walk = field(default_factory=lambda: _by_id(pruning.invoices))
    _additions: _Walk = field(default_factory=lambda: _by_id(pruning.additions))
    _links: _Walk = field(default_factory=lambda: _Walk(pruning.links, b"", lambda: uuid4().bytes))

    async def run_once(self) -> int:
        """Remove one batch of each kind; returns how many rows went."""
        now, keep = self.clock(), self.retention
        counted_once = ACCEPTED_LATE + timedelta(days=1)
        kinds: tuple[Callable[[Connection], Awaitable[int]], ...] = (
            lambda c: deliveries.remove(c, now - keep.deliveries, BATCH),
            lambda c: usage.remove_events(c, now - max(keep.usage, counted_once), BATCH),
            lambda c: usage.remove_days(c, (now - keep.usage_days).date(), BATCH),
            lambda c: usage.remove_quarantined(c, now - QUARANTINE_KEPT, QUARANTINE_MOST, BATCH),
            lambda c: leases.remove(c, now - LEASES_KEPT, BATCH),
            lambda c: idempotency.remove(c, now - KEPT_FOR, BATCH),
            lambda c: pruning.events(c, now - keep.events, BATCH),
            lambda c: erasures.forget(c, (now - ERASED_KEPT).date(), BATCH),
            lambda c: self._documents.step(c, now - keep.documents),
            lambda c: self._links.step(c, now - keep.links),
            lambda c: self._additions.step(c, now - WINDOW),
            lambda c: self._invoices.step(c, now - keep.invoices),
            lambda c: pruning.lookups(c, now),
        )
        removed = 0
        for prune in kinds:
            try:
                async with self.pool.connection() as connection:
                    removed += await prune(connection)
            except Locked as error:  # the other kinds need not wait for it
                log.warning("some old rows stay for now: %s", error)
        return removed
