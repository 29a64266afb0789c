"""Corrects what was carried over, when messages of an earlier subscription are reported late (R2), or voided.

A trigger puts the user into the queue ``recounts``, whoever counted. So a crash between counting and
correcting loses nothing, and counting, which is the hot path, waits for neither.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import datetime

from kosmo_billing_daemon.domain.history import recount
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Erased
from kosmo_billing_daemon.runtime.batcher import Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.store import invoices, recounts, subscriptions
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

log = logging.getLogger(__name__)

BATCH = 100


@record(kw_only=True)
class Recounting:
    """Folds the histories of users whose earlier subscriptions were used more than was known."""

    pool: Pool
    clock: Clock
    changed: Callable[[], None]
    _aside: Cooldown[UserId] = field(default_factory=lambda: Cooldown(log, "late usage set aside"))

    async def next_due(self) -> datetime | None:
        """Return when what was set aside is tried again."""
        return self._aside.next_end()

    async def run_once(self) -> int:
        """Correct one batch of users; returns how many."""
        resting = self._aside.resting(self.clock())
        async with self.pool.connection() as connection:
            due = await recounts.load(connection, BATCH, resting)
        if not due:
            return 0
        for user_id, result in zip(due, await write_each(due, self._recount), strict=True):
            if isinstance(result, Exception) and not isinstance(result, Erased):  # which left nothing to do
                self._aside.put(user_id, result, self.clock(), fields(user=user_id))
        self.changed()
        return len(due)

    async def _recount(self, due: Sequence[UserId]) -> list[None]:
        async def work(connection: Connection) -> None:
            await recount_users(connection, due, self.clock())

        await self.pool.retrying(work, locking_users(due))
        return [None] * len(due)


async def recount_users(connection: Connection, users: Sequence[UserId], now: datetime) -> None:
    """Fold the histories of users anew, who are locked, and take them off the queue."""
    # Before the counters are read: what is counted from here on queues its user again.
    await recounts.delete(connection, users)
    confirming = await invoices.load_processing(connection, users, now)
    changes: list[Change] = []
    new_events: list[Event] = []
    for user_id in users:
        before = await subscriptions.lock_history(connection, user_id)
        outcome = recount(before, now, holding=user_id in confirming)
        changes.append(Change(before, outcome.history))
        new_events += [fulfilment.subscription_event(h, outcome.history, now) for h in outcome.happenings]
    await fulfilment.write(connection, changes, new_events, now)
