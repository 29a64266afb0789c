"""Ends subscriptions when their time has come (R4, R5), and announces it beforehand.

A timer at the next end, not a poll; the edges need neither, since every document carries its end.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import datetime, timedelta

from kosmo_billing_daemon.domain.history import advance
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.batcher import Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.store import events, invoices, subscriptions
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

log = logging.getLogger(__name__)

BATCH = 1000


@record(kw_only=True)
class Expiry:
    """Lets time pass for subscriptions. ``notice`` is how long before its end one is ``expiring``."""

    pool: Pool
    clock: Clock
    notice: timedelta
    changed: Callable[[], None]
    _aside: Cooldown[UserId] = field(default_factory=Cooldown)

    async def next_due(self) -> datetime | None:
        """Return when there is something to do next."""
        resting = self._aside.resting(self.clock())
        async with self.pool.connection() as connection:
            end = await subscriptions.load_next_end(connection, self.notice, resting)
        return min((at for at in (end, self._aside.next_end()) if at is not None), default=None)

    async def run_once(self) -> int:
        """End and announce what is due, one batch; returns how many subscriptions were touched."""
        done = await self._end_due() + await self.pool.retrying(self._announce)
        if done:
            self.changed()
        return done

    async def _end_due(self) -> int:
        now = self.clock()
        resting = self._aside.resting(now)
        async with self.pool.connection() as connection:
            due = await subscriptions.load_due(connection, now, BATCH, resting)
        if not due:
            return 0
        ended = 0
        for user_id, result in zip(due, await write_each(due, self._end), strict=True):
            if isinstance(result, Exception):
                self._aside.put(user_id, result, self.clock())
                self._aside.tell(log, "subscription set aside", result, fields(user=user_id))
            else:
                ended += result
        return ended

    async def _end(self, due: Sequence[UserId]) -> list[bool]:
        """Return of each user whether anything ended."""

        async def work(connection: Connection) -> list[bool]:
            now = self.clock()
            current = await subscriptions.lock_current(connection, due)
            confirming = await invoices.load_processing(connection, due, now)
            changes: list[Change] = []
            new_events: list[Event] = []
            for user_id, row in current.items():
                outcome = advance((row,), now, holding=user_id in confirming)
                changes.append(Change((row,), outcome.history))
                new_events += [
                    fulfilment.subscription_event(h, outcome.history, now) for h in outcome.happenings
                ]
            await fulfilment.write(connection, changes, new_events, now)
            return [user_id in current for user_id in due]

        return await self.pool.retrying(work, locking_users(due))

    async def _announce(self, connection: Connection) -> int:
        now = self.clock()
        ending = await subscriptions.announce_expiring(connection, now, self.notice, BATCH)
        new_events = [
            Event(
                type="subscription.expiring",
                user_id=row.user_id,
                data=fulfilment.subscription_facts(row),
                occurred_at=now,
            )
            for row in ending
        ]
        await combine(connection, [events.append_statement(new_events)])
        return len(ending)
