"""The simulated server without its HTTP face: invoices, their timers, and the events they raise.

The rule it keeps: an invoice is looked at when BTCPay looks at it (creation, payment, one second after expiry
and after the monitoring deadline), and what is overdue is done before anything is answered, so that no answer
depends on how promptly a timer fired.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from heapq import heappop, heappush
from http import HTTPStatus
from random import Random
from typing import Any

from kosmo_billing_daemon.demo.btcpay import state
from kosmo_billing_daemon.demo.btcpay.answers import business_refusal
from kosmo_billing_daemon.demo.btcpay.creation import NO_WALLET, build_invoice
from kosmo_billing_daemon.demo.btcpay.faults import Faults, merge
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice, SimulatedPayment, SimulatedStatus
from kosmo_billing_daemon.demo.btcpay.ledger import InvoiceBook
from kosmo_billing_daemon.demo.btcpay.refunds import (
    PayoutState,
    SimulatedPayout,
    SimulatedPullPayment,
    build_refund,
    claim,
)
from kosmo_billing_daemon.demo.btcpay.rendering import invoice_json
from kosmo_billing_daemon.demo.btcpay.stores import SimulatedStore, Stores
from kosmo_billing_daemon.demo.btcpay.webhooks import Webhooks
from kosmo_billing_daemon.runtime.clock import Clock

_TIMER_MARGIN = timedelta(seconds=1)  # BTCPay looks one second late, never moments too early
_RESTART_GRACE = timedelta(minutes=2)  # time for its listeners to catch up after a restart
_POLL_SECONDS = 0.1  # the clock may be moved by hand, which wakes nobody


@dataclass(slots=True)
class ServerClock:
    """The clock of the server: the given one, plus what it was moved by."""

    source: Clock
    offset: timedelta = timedelta()

    def __call__(self) -> datetime:
        return self.source().astimezone(UTC) + self.offset


class Engine:
    """State and behaviour of the server."""

    def __init__(self, *, clock: ServerClock, webhooks: Webhooks, chance: Random, version: str) -> None:
        self.clock = clock
        self.version = version
        self.stores = Stores()
        self.ledger = InvoiceBook()
        self.pull_payments: dict[str, SimulatedPullPayment] = {}
        self.webhooks = webhooks
        self.faults = Faults()
        self.chance = chance
        self.closing = asyncio.Event()
        self._timers: list[tuple[datetime, str]] = []
        self._timer_task: asyncio.Task[None] | None = None

    @property
    def hides_unknown_ids(self) -> bool:
        """Whether an unknown invoice or webhook id is answered 403, as from version 2.4.0."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= (2, 4)

    async def open(self) -> None:
        self.closing.clear()
        await self.webhooks.open()
        self._timer_task = asyncio.create_task(self._run_timers(), name="btcpay-simulator-timers")

    async def close(self) -> None:
        self.closing.set()
        if self._timer_task is not None:
            self._timer_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._timer_task
            self._timer_task = None
        await self.webhooks.close()

    def create(self, body: dict[str, Any], text: str, store: SimulatedStore, base_url: str) -> dict[str, Any]:
        """Create an invoice and return it as it was at that moment, before the watcher looked at it."""
        invoice = build_invoice(body, text, store, self.clock())
        if self.faults.no_wallet:
            raise business_refusal("generic-error", NO_WALLET)
        self.ledger.add(invoice)
        answer = invoice_json(invoice, base_url)
        self.publish(
            invoice, [state.InvoiceEvent(state.EventType.CREATED), *state.watch(invoice, self.clock())]
        )
        self._set_timers(invoice, timedelta())
        return answer

    def invoice(self, invoice_id: str) -> SimulatedInvoice:
        """Return the invoice, or refuse with 404."""
        invoice = self.ledger.by_id.get(invoice_id)
        if invoice is None:
            raise business_refusal("invoice-not-found", "The invoice was not found", HTTPStatus.NOT_FOUND)
        return invoice

    def receive(self, invoice: SimulatedInvoice, payment: SimulatedPayment) -> None:
        self.publish(invoice, state.receive(invoice, payment, self.clock()))

    def confirm(self, invoice: SimulatedInvoice, payments: list[SimulatedPayment]) -> None:
        self.publish(invoice, state.confirm(invoice, payments, self.clock()))

    def expire(self, invoice: SimulatedInvoice) -> None:
        """Move the expiry of an unpaid invoice to now."""
        invoice.expires = self.clock().replace(microsecond=0)
        self.look_at(invoice)

    def look_at(self, invoice: SimulatedInvoice) -> None:
        self.publish(invoice, state.watch(invoice, self.clock()))

    def mark(self, invoice: SimulatedInvoice, status: SimulatedStatus) -> bool:
        """Mark the invoice by hand; False when its state does not allow it."""
        events = state.mark(invoice, status)
        self.publish(invoice, events or [])
        return events is not None

    def refund(
        self, invoice: SimulatedInvoice, body: Mapping[str, Any], *, may_approve: bool = True
    ) -> SimulatedPullPayment:
        """Make the pull payment that refunds an invoice, and say so from version 2.4.1 on."""
        made = build_refund(invoice, body, self.clock(), may_approve=may_approve)
        self.pull_payments[made.id] = made
        if tuple(int(part) for part in self.version.split(".")[:3]) >= (2, 4, 1):
            self.publish(invoice, [state.InvoiceEvent(state.EventType.REFUND, {"pullPaymentId": made.id})])
        return made

    def claim(self, pull_payment_id: str, amount: object, destination: str) -> SimulatedPayout:
        """Claim a pull payment, as whoever has its link can."""
        pull_payment = self.pull_payments[pull_payment_id]
        payout = claim(
            pull_payment, None if amount is None else Decimal(str(amount)), self.clock(), destination
        )
        self._publish_payout(pull_payment, payout, "PayoutCreated")
        return payout

    def pay_out(self, payout: SimulatedPayout) -> None:
        """Approve and pay a claim, as the operator of BTCPay does."""
        pull_payment = self.pull_payments[payout.pull_payment_id]
        if payout.state is PayoutState.AWAITING_APPROVAL:
            payout.state = PayoutState.AWAITING_PAYMENT
            self._publish_payout(pull_payment, payout, "PayoutApproved")
        payout.state = PayoutState.COMPLETED
        self._publish_payout(pull_payment, payout, "PayoutUpdated")

    def _publish_payout(self, pull_payment: SimulatedPullPayment, payout: SimulatedPayout, name: str) -> None:
        fields = {
            "payoutId": payout.id,
            "pullPaymentId": pull_payment.id,
            "payoutState": payout.state.value,
        }
        self.webhooks.publish(pull_payment.store_id, name, fields, {"storeId": pull_payment.store_id})

    def publish(self, invoice: SimulatedInvoice, events: list[state.InvoiceEvent]) -> None:
        common = {"storeId": invoice.store_id, "invoiceId": invoice.id, "metadata": invoice.metadata}
        for event in events:
            self.webhooks.publish(invoice.store_id, event.type.value, event.fields, common)

    def set_faults(self, changes: dict[str, Any]) -> Faults:
        """Merge ``changes`` into the faults; a named seed starts the chances anew."""
        self.faults = merge(self.faults, changes)
        if "seed" in changes:
            self.chance.seed(self.faults.seed)
        self.webhooks.set_faults(self.faults.webhooks)
        return self.faults

    def advance(self, duration: timedelta) -> None:
        """Move the clock of the server and do what became due."""
        self.clock.offset += duration
        self.run_due()

    async def restart(self) -> None:
        """Lose queued webhooks and pending retries; expiry of open invoices waits two more minutes."""
        await self.webhooks.lose_queued()
        self._timers.clear()
        for invoice in self.ledger.by_id.values():
            if invoice.status in (SimulatedStatus.NEW, SimulatedStatus.PROCESSING):
                self._set_timers(invoice, _RESTART_GRACE)

    def run_due(self) -> None:
        """Look at every invoice whose timer is due."""
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            _, invoice_id = heappop(self._timers)
            self.look_at(self.ledger.by_id[invoice_id])

    def _set_timers(self, invoice: SimulatedInvoice, grace: timedelta) -> None:
        # A look at a finished invoice changes nothing, so timers are never taken back.
        heappush(self._timers, (invoice.expires + _TIMER_MARGIN + grace, invoice.id))
        heappush(self._timers, (invoice.monitored_until + _TIMER_MARGIN, invoice.id))

    async def _run_timers(self) -> None:
        while True:
            self.run_due()
            await asyncio.sleep(_POLL_SECONDS)
