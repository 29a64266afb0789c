"""Works the queue of lookups: what webhooks hint at, at once, and what is open without a hint, later.

Polling is mandatory, since BTCPay's retries live in its memory and die with it: at start, whenever the clock
was set, on a schedule that backs off with the invoice's age, and until 72 h after expiry.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.runtime.batcher import Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.services import observations
from kosmo_billing_daemon.services.observations import LookupResult
from kosmo_billing_daemon.services.reservations import ORPHANED_AFTER
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store import invoices, lookups, purchases
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.lookups import DueLookups, Key, Requeueing
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners

log = logging.getLogger(__name__)

MOST_AT_ONCE = ORDERS_PER_CALL
"""Lookups made together: one list call's worth."""

ROUNDS = 3
"""How many are under way at the same time: while the database writes one, BTCPay is asked for the next."""

GIVE_UP_AFTER = timedelta(minutes=10)
"""A reservation that BTCPay does not know by then was never created there."""

MISSING_WAIT = timedelta(minutes=5)
"""How long an invoice that BTCPay does not know is left alone."""


class Unreadable(Exception):
    """BTCPay's answer about an invoice makes no sense to us."""


@dataclass(slots=True, kw_only=True)
class Reconciliation:
    """Makes the lookups that are due, and those of everything open when ``watch`` saw the clock being set.

    Several rounds may be under way at once. ``more`` is called when something that they left is due.
    """

    pool: Pool
    settlement: Settlement
    clock: Clock
    watch: ClockWatch = field(default_factory=ClockWatch)
    more: Callable[[], None] = lambda: None
    _aside: Cooldown[InvoiceId] = field(
        default_factory=lambda: Cooldown(log, "invoice set aside", known=Unreadable), init=False
    )
    _taking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _taken: set[InvoiceId] = field(default_factory=set, init=False)
    _passed_over: bool = field(default=False, init=False)
    _steps: int = field(default=0, init=False)
    _looked_at: datetime = field(default=datetime.min.replace(tzinfo=UTC), init=False)

    async def begin(self) -> None:
        """Have every open invoice looked up: hints may have been missed while nobody led."""
        async with self.pool.connection() as connection:
            await lookups.append_all(connection, self.clock())

    async def next_due(self) -> datetime | None:
        """Return when the next lookup is due after those of the last round."""
        async with self.pool.connection() as connection:
            due = await lookups.load_next_due(connection, self._looked_at)
        return min((at for at in (due, self._aside.next_end()) if at is not None), default=None)

    async def run_once(self) -> int:
        """Make lookups that are due, without those of another round under way; returns how many.

        Raises ``Unavailable`` when BTCPay or the database is unreachable; the lookups stay due. What cannot
        be read or settled is set aside for a while, and so is a user whose rows somebody else has locked.
        """
        async with self._taking:
            due, now = await self._take()
        if due is None:
            return 0
        try:
            await self._make(due, now)
        finally:
            self._taken.difference_update(one.invoice_id for one in due.lookups)
            if self._passed_over and not self._taken:
                self._passed_over = False
                self.more()
        return len(due.lookups)

    async def _take(self) -> tuple[DueLookups | None, datetime]:
        """Return lookups that are due; a hint at what another round has taken waits until that is over."""
        if self._steps != (steps := self.watch.steps):
            await self.begin()  # what was put off, was until a time that may be far away now
            self._steps = steps
        self._looked_at = now = self.clock()
        others = [*self._aside.resting(now), *self._taken]
        self._passed_over |= bool(self._taken)
        async with self.pool.connection() as connection:
            due = await lookups.load_due(connection, now, MOST_AT_ONCE, others)
        if due is None:
            return None, now
        self._taken.update(one.invoice_id for one in due.lookups)
        return due, now

    async def _make(self, due: DueLookups, now: datetime) -> None:
        """Ask BTCPay, and write what it answers."""
        named = {one.invoice_id: one.btcpay_invoice_id for one in due.lookups}
        if self.settlement.trust_body:
            async with self.pool.connection() as connection:
                known = await invoices.load(connection, named)
            result = observations.claimed(due.lookups, known, self.settlement.store_id)
        else:
            result = await observations.look_up(self.settlement.btcpay, named, due.number)
        failed: dict[InvoiceId, Exception] = {
            each: Unreadable("BTCPay's answer about it cannot be read")
            for each in named
            if each in result.unreadable
        }
        observed = [each for each in named if each in result.observations]
        missing = [each for each in named if each not in result.observations and each not in failed]
        asked: dict[InvoiceId, list[Key]] = {}  # BTCPay hints several times at one payment
        for one in due.lookups:
            asked.setdefault(one.invoice_id, []).append(one.key)
        for part, write in (
            (observed, partial(self._settle, result, asked)),
            (missing, partial(self._put_off, asked, now)),
        ):
            results = zip(part, await write_each(part, write) if part else (), strict=True)
            failed |= {each: written for each, written in results if isinstance(written, Exception)}
        await self._set_aside(failed)

    async def _settle(
        self, result: LookupResult, asked: Mapping[InvoiceId, list[Key]], part: Sequence[InvoiceId]
    ) -> list[None]:
        observed = {each: result.observations[each] for each in part}
        answered = [row for each in part for row in asked[each]]
        await self.settlement.settle_round(observed, answered, result.number)
        return [None] * len(part)

    async def _put_off(
        self, asked: Mapping[InvoiceId, list[Key]], now: datetime, part: Sequence[InvoiceId]
    ) -> list[None]:
        """Answer lookups of invoices that BTCPay does not know: ask again later, or give up."""

        async def work(connection: Connection) -> list[InvoiceId]:
            requeueing = Requeueing({row for each in part for row in asked[each]})
            checks: dict[InvoiceId, datetime | None] = {}
            abandoned = []
            for one in await purchases.lock(connection, part):
                invoice = one.invoice
                wanted = _again(invoice, now)
                checks[invoice.id] = requeueing.next_check(invoice.id, one.next_check_at, wanted, now)
                if _is_given_up(invoice, now):
                    abandoned.append(invoice.id)
            await combine(connection, [invoices.save_checks_statement(checks), *requeueing.statements()])
            if abandoned:
                await invoices.abandon(connection, abandoned)
            return abandoned

        for invoice_id in await self.pool.retrying(work, locking_owners(part)):
            log.warning(
                "a reservation never reached BTCPay and was abandoned", extra=fields(order=invoice_id)
            )
        return [None] * len(part)

    async def _set_aside(self, failed: Mapping[InvoiceId, Exception]) -> None:
        if not failed:
            return
        now = self.clock()
        for invoice_id, error in failed.items():
            self._aside.put(invoice_id, error, now, fields(order=invoice_id))
        async with self.pool.connection() as connection:
            await lookups.note_set_aside(connection, {each: str(why) for each, why in failed.items()}, now)


def _is_given_up(invoice: Invoice, now: datetime) -> bool:
    return invoice.status is InvoiceStatus.RESERVED and now - invoice.created_at > GIVE_UP_AFTER


def _again(invoice: Invoice, now: datetime) -> datetime | None:
    """Return when to ask again for an invoice that BTCPay does not know."""
    if _is_given_up(invoice, now):
        return None
    if invoice.status is InvoiceStatus.RESERVED:
        return max(invoice.created_at + ORPHANED_AFTER, now + timedelta(minutes=1))
    due = next_check(invoice, now)
    return None if due is None else max(due, now + MISSING_WAIT)
