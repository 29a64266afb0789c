"""Gives time, to one user or to everybody who has a plan, such as after an outage.

The rule it keeps: so many days for one reason are given to each user once. Who got them is written in the
transaction that gives them. So a run that was cut off, however hard, continues where it stopped, and the same
command again gives nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.domain import history
from kosmo_billing_daemon.domain.folding import PREPAID_CAP
from kosmo_billing_daemon.domain.reminders import next_step
from kosmo_billing_daemon.domain.subscriptions import Subscription, UserId, current
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.runtime.batcher import write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services.fulfilment import Change
from kosmo_billing_daemon.store import audit, extensions, invoices, subscriptions
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.extensions import Extension, Meant, PlanToExtend
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

BATCH = 200  # users per transaction: their purchases wait for it
MOST_DAYS = 366
LATELY: Final = timedelta(days=60)

_NO_EXTENSION: Final = UUID(int=0)


@record(kw_only=True)
class ExtensionPreview:
    """What extending everybody would do now.

    ``plans`` are those who are left, with their ends before; ``begun`` is the same extension, if it was begun
    before; ``lately`` is what else everybody got.
    """

    time: timedelta
    plans: tuple[PlanToExtend, ...]
    begun: Extension | None
    lately: tuple[Extension, ...]

    @property
    def users(self) -> int:
        return sum(plan.users for plan in self.plans)

    @property
    def ended(self) -> int:
        """How many of them have a plan that is over, and goes on from now."""
        return sum(plan.users for plan in self.plans if plan.is_over)


@record
class Extended:
    """How many users were extended, and why not the others who were meant."""

    users: int
    failed: Mapping[UserId, str]


@record(kw_only=True)
class Extending:
    """Lengthens current subscriptions. Users are reminded ``remind_hours`` before the new end."""

    pool: Pool
    clock: Clock
    remind_hours: Sequence[int]

    async def preview_all(self, days: int, reason: str, *, since: datetime | None = None) -> ExtensionPreview:
        """Say what ``extend_all`` would do, and change nothing."""
        now = self.clock()
        _require(days, since, now)
        async with self.pool.connection() as connection:
            begun = await extensions.find(connection, reason, days)
            known, all_at = (_NO_EXTENSION, None) if begun is None else (begun.id, begun.all_at)
            time = timedelta(days=days)
            cap = now + PREPAID_CAP - time
            plans = await extensions.load_by_plan(connection, Meant(known, all_at or now, since), cap, now)
            lately = await extensions.load_before(connection, LATELY, now, known)
        return ExtensionPreview(time=time, plans=tuple(plans), begun=begun, lately=tuple(lately))

    async def extend_all(
        self,
        days: int,
        by: OperatorAction,
        progress: Callable[[int], None],
        *,
        since: datetime | None = None,
    ) -> Extended:
        """Extend everybody who has a plan now, or had one when this was begun, or ``since``.

        A plan that has ended since then goes on from now for these days, with the messages that were left.
        Each batch is a transaction of its own; ``progress`` is told how many users are done so far. Users
        whose rows somebody else holds are left out; the same command again takes only them.
        """
        _require(days, since, self.clock())
        async with self.pool.connection() as connection:
            now = self.clock()
            extension = await extensions.begin(connection, uuid4(), days, by.reason, now, everybody=True)
        meant = Meant(extension.id, extension.all_at or extension.begun_at, since)
        users, failed = 0, dict[UserId, str]()

        async def extend(batch: Sequence[UserId]) -> list[Subscription | None]:
            return await self.pool.retrying(
                lambda connection: self._extend(connection, extension, batch, by, since), locking_users(batch)
            )

        for is_over in (False, True) if since else (False,):
            after = UUID(int=0)
            while True:
                batch = await self.pool.read(extensions.load_left, meant, after, BATCH, is_over=is_over)
                if not batch:
                    break
                for user_id, result in zip(batch, await write_each(batch, extend), strict=True):
                    if isinstance(result, Exception):
                        failed[user_id] = str(result)
                    elif result is not None:
                        users += 1
                progress(users)
                after = batch[-1]
        return Extended(users, failed)

    async def extend(
        self, user_id: UserId, days: int, by: OperatorAction, *, since: datetime | None = None
    ) -> Subscription:
        """Extend one user's current subscription, or one that has ended ``since``, and return it.

        Raises ``Conflict`` if the user got so many days for the same reason before.
        """
        _require(days, since, self.clock())

        async def work(connection: Connection) -> Subscription:
            now = self.clock()
            extension = await extensions.begin(connection, uuid4(), days, by.reason, now, everybody=False)
            before = await extensions.load_extended(connection, extension.id, [user_id])
            if before:
                raise Conflict(
                    f"this user got {days} days for the same reason on {before[user_id]:%Y-%m-%d};"
                    " name another reason if more are meant",
                    code="extended_before",
                )
            (row,) = await self._extend(connection, extension, [user_id], by, since)
            if row is None:
                ended = "" if since is None else ", nor one that ended since then with messages left"
                raise NotFound(f"this user has no current subscription{ended}")
            return row

        return await self.pool.retrying(work, locking_users([user_id]))

    async def _extend(
        self,
        connection: Connection,
        extension: Extension,
        users: Sequence[UserId],
        by: OperatorAction,
        since: datetime | None,
    ) -> list[Subscription | None]:
        """Extend users who are locked; returns each one's subscription, if it was extended now."""
        now = self.clock()
        before = await extensions.load_extended(connection, extension.id, users)
        meant = [user for user in users if user not in before]
        rows = await subscriptions.lock_current(connection, meant)
        if since is not None:
            rows |= await subscriptions.lock_ended(connection, set(meant) - rows.keys(), since)
        confirming = await invoices.load_processing(connection, rows, now)
        time = timedelta(days=extension.days)
        changes: list[Change] = []
        new_events: list[Event] = []
        extended: dict[UserId, Subscription] = {}
        for user_id, row in rows.items():
            holding = user_id in confirming
            outcome = history.extend((row,), extension.id, time, now, reason="extended", holding=holding)
            changes.append(Change((row,), outcome.history))
            new_events += [fulfilment.subscription_event(h, outcome.history, now) for h in outcome.happenings]
            if (longer := current(outcome.history)) is not None:  # else its time had come
                extended[user_id] = longer
        if extended:
            await self._write(connection, extension, list(extended.values()), by, now)
        await fulfilment.write(connection, changes, new_events, now)
        return [extended.get(user_id) for user_id in users]

    async def _write(
        self,
        connection: Connection,
        extension: Extension,
        extended: Sequence[Subscription],
        by: OperatorAction,
        now: datetime,
    ) -> None:
        """Note who got it, and remind of the new ends."""
        steps = [(row.id, next_step(row.valid_until - now, self.remind_hours)) for row in extended]
        noted = [(row.user_id, row.id) for row in extended]
        await combine(
            connection,
            [extensions.note_statement(extension.id, noted, now), subscriptions.remind_statement(steps)],
        )
        entries = [
            by.entry("user.extend", row.user_id, f"subscription {row.id} by {extension.days} days", now)
            for row in extended
        ]
        await audit.append(connection, *entries)


def _require(days: int, since: datetime | None, now: datetime) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise Invalid(f"a number of days from 1 to {MOST_DAYS} is needed", field="days")
    if since is not None and not now - LATELY <= since <= now:
        raise Invalid(f"a time within the last {LATELY.days} days is needed", field="since")
