"""Ends subscriptions when their time has come (R4, R5), and announces it beforehand.

A timer at the next end, not a poll; the edges need neither, since every document carries its end.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import datetime, timedelta

from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.domain.subscriptions import UserId, advance
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.logs import fields
from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.store import events, invoices, subscriptions
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users
from kosmo_billing_daemon.store.together import together

log = logging.getLogger(__name__)

BATCH = 1000

SET_ASIDE = timedelta(minutes=1)
"""How long a user whose subscription could not be ended waits; the others go on."""


@record(kw_only=True)
class Expiry:
    """Lets time pass for subscriptions. ``notice`` is how long before its end one is ``expiring``."""

    pool: Pool
    clock: Clock
    notice: timedelta
    changed: Callable[[], None]
    _aside: dict[UserId, datetime] = field(default_factory=dict)

    async def next_due(self) -> datetime | None:
        """Return when there is something to do next."""
        async with self.pool.connection() as connection:
            end = await subscriptions.load_next_end(connection, self.notice, list(self._aside))
        return min((at for at in (end, *self._aside.values()) if at is not None), default=None)

    async def run_once(self) -> int:
        """End and announce what is due, one batch; returns how many subscriptions were touched."""
        done = await self._end_due() + await self.pool.retrying(self._announce)
        if done:
            self.changed()
        return done

    async def _end_due(self) -> int:
        now = self.clock()
        for user_id in [key for key, until in self._aside.items() if not now < until <= now + SET_ASIDE]:
            del self._aside[user_id]
        async with self.pool.connection() as connection:
            due = await subscriptions.load_due(connection, now, BATCH, list(self._aside))
        if not due:
            return 0
        try:
            return await self._end(due)
        except Unavailable:
            raise
        except Exception:
            log.exception("a batch of subscriptions failed; each is tried alone")
        done = 0
        for user_id in due:
            done += await self._end_alone(user_id)
        return done

    async def _end_alone(self, user_id: UserId) -> int:
        """Keep one user whose subscription cannot be ended from holding up the others."""
        try:
            return await self._end([user_id])
        except Unavailable:
            raise
        except Exception:
            self._aside[user_id] = self.clock() + SET_ASIDE
            log.exception("a subscription is set aside for a while", extra=fields(user=user_id))
            return 0

    async def _end(self, due: Sequence[UserId]) -> int:
        async def work(connection: Connection) -> int:
            now = self.clock()
            current = await subscriptions.lock_current(connection, due)
            confirming = await invoices.load_processing(connection, due)
            changes: list[Change] = []
            news: list[Event] = []
            for user_id, row in current.items():
                outcome = advance((row,), now, holding=user_id in confirming)
                changes.append(Change((row,), outcome.history))
                news += [fulfilment.subscription_news(h, outcome.history, now) for h in outcome.happenings]
            await fulfilment.write(connection, changes, news)
            return len(current)

        return await self.pool.retrying(work, locking_users(due))

    async def _announce(self, connection: Connection) -> int:
        now = self.clock()
        ending = await subscriptions.announce_expiring(connection, now, self.notice, BATCH)
        news = [
            Event(
                type="subscription.expiring",
                user_id=row.user_id,
                data=fulfilment.subscription_facts(row),
                occurred_at=now,
            )
            for row in ending
        ]
        await together(connection, [events.appending(news)])
        return len(ending)
