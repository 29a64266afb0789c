"""Ends subscriptions when their time has come (R4, R5) or renews them from credit (R15), and reminds before.

A timer at the next deadline, not a poll; the edges need neither, since every document carries its end. A
reminder is written in the transaction that notes it, so it is sent once whatever dies.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import datetime

from kosmo_billing_daemon.domain.auto_renewal import obstacle
from kosmo_billing_daemon.domain.history import advance
from kosmo_billing_daemon.domain.reminders import Reminder, due_reminder
from kosmo_billing_daemon.domain.subscriptions import Subscription, UserId
from kosmo_billing_daemon.errors import Erased
from kosmo_billing_daemon.runtime.batcher import Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.store import auto_renewals, invoices, subscriptions
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

log = logging.getLogger(__name__)

BATCH = 1000


@record(kw_only=True)
class Expiry:
    """Lets time pass for subscriptions. Users are reminded ``remind_hours`` before the end."""

    pool: Pool
    clock: Clock
    remind_hours: Sequence[int]
    links: RenewalLinks
    renewals: AutoRenewals
    changed: Callable[[], None]
    _aside: Cooldown[UserId] = field(default_factory=lambda: Cooldown(log, "subscription set aside"))

    async def next_due(self) -> datetime | None:
        """Return when there is something to do next."""
        resting = self._aside.resting(self.clock())
        async with self.pool.connection() as connection:
            deadline = await subscriptions.load_next_deadline(connection, resting)
        return min((at for at in (deadline, self._aside.next_end()) if at is not None), default=None)

    async def run_once(self) -> int:
        """End what is due and remind of what is not yet, one batch; returns how many were touched."""
        now = self.clock()
        resting = self._aside.resting(now)
        async with self.pool.connection() as connection:
            due = await subscriptions.load_due(connection, now, BATCH, resting)
        if not due:
            return 0
        passed = 0
        for user_id, result in zip(due, await write_each(due, self._pass_deadlines), strict=True):
            if isinstance(result, Exception) and not isinstance(result, Erased):  # which left nothing to do
                self._aside.put(user_id, result, self.clock(), fields(user=user_id))
            elif not isinstance(result, Exception):
                passed += result
        if passed:
            self.changed()
        return passed

    async def _pass_deadlines(self, due: Sequence[UserId]) -> list[bool]:
        """Return of each user whether there was a current subscription, or one was renewed."""
        renewed: list[UserId] = []

        async def work(connection: Connection) -> list[bool]:
            now = self.clock()
            current = await subscriptions.lock_current(connection, due)
            confirming = await invoices.load_processing(connection, due, now)
            upcoming = await auto_renewals.load_upcoming(connection, [row.id for row in current.values()])
            ended = [user_id for user_id in due if user_id not in current]
            lapsed = await auto_renewals.load_lapsed(connection, ended) if ended else {}
            chosen = [row for row in current.values() if upcoming[row.id].renews]
            quotes = await self.renewals.quote(connection, [*chosen, *lapsed.values()], now)
            covered = {
                user_id: (row, quotes[user_id])
                for user_id, row in (current | lapsed).items()
                if user_id in quotes and obstacle(row, quotes[user_id]) is None
            }
            renewing = {user_id: covered[user_id] for user_id in lapsed if user_id in covered}
            changes: list[Change] = []
            new_events: list[Event] = []
            reminders: list[tuple[Subscription, Reminder]] = []
            for user_id, row in current.items():
                outcome = advance((row,), now, holding=user_id in confirming)
                if user_id in covered and outcome.happenings:
                    renewing[user_id] = covered[user_id]
                    continue
                changes.append(Change((row,), outcome.history))
                new_events += [
                    fulfilment.subscription_event(h, outcome.history, now) for h in outcome.happenings
                ]
                reminder = due_reminder(row, now, self.remind_hours, upcoming[row.id].reminder_hours)
                if reminder is not None:
                    reminders.append((row, reminder))
            said = [(row, each.hours_left) for row, each in reminders if each.hours_left is not None]
            new_events += await self._remind(
                connection, [one for one in said if one[0].user_id not in covered], now
            )
            announced = [
                (row, hours_left)
                for row, hours_left in said
                if row.user_id in covered and not upcoming[row.id].is_announced
            ]
            new_events += [
                fulfilment.renewing_event(row, covered[row.user_id][1], hours_left, now)
                for row, hours_left in announced
            ]
            await fulfilment.write(
                connection,
                changes,
                new_events,
                now,
                beside=[
                    subscriptions.remind_statement([(row.id, each.next_hours) for row, each in reminders]),
                    auto_renewals.announce_statement([(row.user_id, row.id) for row, _ in announced]),
                    auto_renewals.forget_lapses_statement(due),
                ],
            )
            await self.renewals.renew(connection, renewing, now)
            renewed[:] = renewing
            return [user_id in current or user_id in renewing for user_id in due]

        done = await self.pool.retrying(work, locking_users(due))
        for user_id in renewed:
            log.info("subscription renewed from credit", extra=fields(user=user_id))
        return done

    async def _remind(
        self, connection: Connection, said: Sequence[tuple[Subscription, int]], now: datetime
    ) -> list[Event]:
        """Return what is said of subscriptions that end in so many hours."""
        urls = await self.links.issue(connection, [row.user_id for row, _ in said])
        return [
            Event(
                type="subscription.expiring",
                user_id=row.user_id,
                data=fulfilment.subscription_facts(row)
                | {"hours_left": hours_left, "renew_url": urls.get(row.user_id)},
                occurred_at=now,
            )
            for row, hours_left in said
        ]
