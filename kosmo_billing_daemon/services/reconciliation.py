"""Looks at open invoices without a hint: BTCPay's retries live in its memory and die with it.

At start, whenever the clock was set, on a schedule that backs off with the invoice's age, and until 72 h
after expiry.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL, BtcpayClient
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.errors import Locked
from kosmo_billing_daemon.runtime.batcher import Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.services.observations import LookupResult, Seen
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store import invoices
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

GIVE_UP_AFTER = timedelta(minutes=10)
"""A reservation that BTCPay does not know by then was never created there."""

MISSING_WAIT = timedelta(minutes=5)
"""How long what BTCPay does not know, or what cannot be read or settled, is left alone."""


@dataclass(slots=True, kw_only=True)
class Reconciliation:
    """Polls what ``next_check_at`` says is due, and everything when ``watch`` saw the clock being set."""

    pool: Pool
    btcpay: BtcpayClient
    settlement: Settlement
    clock: Clock
    watch: ClockWatch = field(default_factory=ClockWatch)
    _aside: Cooldown[InvoiceId] = field(default_factory=Cooldown, init=False)
    _steps: int = field(default=0, init=False)

    async def begin(self) -> None:
        """Have every open invoice looked at: hints may have been missed while nobody led."""
        async with self.pool.connection() as connection:
            await invoices.check_all_at(connection, self.clock())

    async def next_due(self) -> datetime | None:
        """Return when the next invoice is to be looked at."""
        resting = self._aside.resting(self.clock())
        async with self.pool.connection() as connection:
            due = await invoices.load_next_check(connection, resting)
        return min((at for at in (due, self._aside.next_end()) if at is not None), default=None)

    async def run_once(self) -> int:
        """Look at one batch of due invoices; returns how many. Raises ``Unavailable``."""
        if self._steps != (steps := self.watch.steps):
            await self.begin()  # what was put off, was until a time that may be far away now
            self._steps = steps
        now = self.clock()
        async with self.pool.connection() as connection:
            due = await invoices.load_to_check(connection, now, ORDERS_PER_CALL, self._aside.resting(now))
        if not due:
            return 0
        looked = LookupResult() if self.settlement.trust_body else await self.settlement.look_up(due)
        settled = await self._settle(looked.seen, looked.number)
        resting = {*settled, *self._aside.resting(now)}
        rest = [invoice for invoice in due if invoice.id not in resting]
        put_off = partial(self._put_off, looked, now)
        for invoice, result in zip(rest, await write_each(rest, put_off), strict=True):
            if isinstance(result, Exception):
                self._leave(invoice.id, result)
        return len(due)

    async def _put_off(self, looked: LookupResult, now: datetime, rest: Sequence[Invoice]) -> list[None]:
        """Note when to look again at invoices of which nothing was settled now, or that there is no need."""
        later: dict[InvoiceId, datetime | None] = {}
        abandoned: list[InvoiceId] = []
        for invoice in rest:
            if invoice.id in looked.seen or invoice.id in looked.unreadable:
                later[invoice.id] = now + MISSING_WAIT
            elif invoice.status is not InvoiceStatus.RESERVED:
                due = next_check(invoice, now)
                later[invoice.id] = None if due is None else max(due, now + MISSING_WAIT)
            elif now - invoice.created_at > GIVE_UP_AFTER:
                abandoned.append(invoice.id)
            else:
                later[invoice.id] = now + timedelta(minutes=1)
        async with self.pool.transaction() as connection:
            if later:
                await invoices.postpone(connection, later, now)
            if abandoned:
                await invoices.abandon(connection, abandoned)
        for invoice_id in abandoned:
            log.warning(
                "a reservation never reached BTCPay and was abandoned", extra=fields(order=invoice_id)
            )
        return [None] * len(rest)

    async def _settle(self, seen: Seen, number: int | None) -> set[InvoiceId]:
        """Settle what was seen; an invoice that cannot be settled is left out and holds up no other."""

        async def settle(part: Sequence[InvoiceId]) -> list[bool]:
            mine = {invoice_id: seen[invoice_id] for invoice_id in part}
            settled = await self.settlement.settle(mine, number=number)
            return [invoice_id in settled for invoice_id in part]

        settled: set[InvoiceId] = set()
        for invoice_id, result in zip(seen, await write_each(list(seen), settle), strict=True):
            if isinstance(result, Exception):
                self._leave(invoice_id, result)
            elif result:
                settled.add(invoice_id)
        return settled

    def _leave(self, invoice_id: InvoiceId, error: Exception) -> None:
        """Leave what is locked alone for a moment; what cannot be settled is put off as what is missing."""
        named = fields(order=invoice_id)
        if isinstance(error, Locked):
            self._aside.put(invoice_id, error, self.clock())
        self._aside.tell(log, "invoice set aside", error, named)
