"""Looks at open invoices without a hint: BTCPay's retries live in its memory and die with it.

At start, whenever the clock was set, on a schedule that backs off with the invoice's age, and until 72 h
after expiry.
"""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL, BtcpayClient
from kosmo_billing_daemon.clock import Clock, ClockWatch
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.domain.polling import next_check
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.logs import fields
from kosmo_billing_daemon.services.observations import LookedUp, Seen
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
    _steps: int = field(default=0, init=False)

    async def begin(self) -> None:
        """Have every open invoice looked at: hints may have been missed while nobody led."""
        async with self.pool.connection() as connection:
            await invoices.check_all_at(connection, self.clock())

    async def next_due(self) -> datetime | None:
        """Return when the next invoice is to be looked at."""
        async with self.pool.connection() as connection:
            return await invoices.load_next_check(connection)

    async def run_once(self) -> int:
        """Look at one batch of due invoices; returns how many. Raises ``Unavailable``."""
        if self._steps != (steps := self.watch.steps):
            await self.begin()  # what was put off, was until a time that may be far away now
            self._steps = steps
        now = self.clock()
        async with self.pool.connection() as connection:
            due = await invoices.load_to_check(connection, now, ORDERS_PER_CALL)
        if not due:
            return 0
        looked = LookedUp() if self.settlement.trust_body else await self.settlement.look_up(due)
        settled = await self._settle(looked.seen, looked.number)
        for invoice in due:
            if invoice.id in settled:
                continue
            async with self.pool.connection() as connection:
                if invoice.id in looked.seen or invoice.id in looked.unreadable:
                    await invoices.postpone(connection, [invoice.id], now + MISSING_WAIT, now)
                elif invoice.status is not InvoiceStatus.RESERVED:
                    later = next_check(invoice, now)
                    await invoices.postpone(
                        connection,
                        [invoice.id],
                        None if later is None else max(later, now + MISSING_WAIT),
                        now,
                    )
                elif now - invoice.created_at > GIVE_UP_AFTER:
                    await invoices.abandon(connection, [invoice.id])
                    log.warning(
                        "a reservation never reached BTCPay and is abandoned", extra=fields(order=invoice.id)
                    )
                else:
                    await invoices.postpone(connection, [invoice.id], now + timedelta(minutes=1), now)
        return len(due)

    async def _settle(self, seen: Seen, number: int | None) -> set[InvoiceId]:
        """Settle what was seen; an invoice that cannot be settled is left out and holds up no other."""
        try:
            return set(await self.settlement.settle(seen, number=number))
        except Unavailable:
            raise
        except Exception:
            log.exception("a batch of invoices failed; each is tried alone")
        settled: set[InvoiceId] = set()
        for invoice_id, observed in seen.items():
            try:
                settled.update(await self.settlement.settle({invoice_id: observed}, number=number))
            except Unavailable:
                raise
            except Exception:
                log.exception("an invoice is set aside for a while", extra=fields(order=invoice_id))
        return settled
