"""Asks BTCPay about what signed webhooks hint at beside our invoices: unknown orders and refunds.

The rule it keeps (R13): money that BTCPay received for an order in the form of ours is in the ledger or in a
case, though a failover or an old backup lost the order. A webhook says where to look, and nothing more.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.btcpay import refunds as at_btcpay
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayRefused, Garbled
from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Observation, needs_confirmation
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.batcher import Cooldown, write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.services import refunds as booking
from kosmo_billing_daemon.services.reconciliation import Unreadable
from kosmo_billing_daemon.store import attention, inquiries, invoices, refunds
from kosmo_billing_daemon.store.inquiries import Inquiry
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.refunds import Receipt

log = logging.getLogger(__name__)

AT_ONCE = 20
"""Inquiries of one round; each takes one to three calls."""

OURS: Final = re.compile(r"Refund [0-9]+ of .+")
"""The names of refunds that we ordered (``Refund.name``)."""


@record(kw_only=True)
class Inquiries:
    """Makes the inquiries that are due, each until BTCPay has answered."""

    pool: Pool
    btcpay: BtcpayClient
    store_id: str
    clock: Clock
    _aside: Cooldown[tuple[str, str]] = field(
        default_factory=lambda: Cooldown(log, "inquiry set aside", known=Unreadable), init=False
    )

    async def next_due(self) -> datetime | None:
        """Return when what was set aside is tried again."""
        return self._aside.next_end()

    async def run_once(self) -> int:
        """Make some that are due; returns how many. Raises ``Unavailable``, and what is due stays so."""
        now = self.clock()
        async with self.pool.connection() as connection:
            due = await inquiries.load_due(connection, now, AT_ONCE, self._aside.resting(now))
        for one in due:
            (result,) = await write_each([one], self._answer)
            if isinstance(result, Exception):
                self._aside.put(one.key, result, self.clock(), fields(invoice=one.btcpay_invoice_id))
        return len(due)

    async def _answer(self, asked: Sequence[Inquiry]) -> list[None]:
        (one,) = asked
        try:
            if one.pull_payment_id:
                await self._book_refund(one.btcpay_invoice_id, one.pull_payment_id)
            else:
                await self._look_for_lost_order(one.btcpay_invoice_id)
        except (Garbled, BtcpayRefused) as error:  # about this one, as far as anybody can tell
            raise Unreadable(str(error)) from error
        async with self.pool.connection() as connection:
            await inquiries.delete(connection, one)
        return [None]

    async def _look_for_lost_order(self, btcpay_invoice_id: str) -> None:
        """Open a case for money that came in for an order in the form of ours that is in no row (R13)."""
        seen = await self.btcpay.fetch_invoice(btcpay_invoice_id)
        order_id = None if seen is None else _order(seen)
        if seen is None or order_id is None or seen.store_id != self.store_id:
            return
        received = await self._received(seen)
        if received <= 0:
            return
        detail = (
            f"BTCPay received {received:f} {seen.currency} for order {order_id}, which this database does not"
            " know: a failover or an old backup lost it, or it was forgotten unpaid (INVOICE_RETENTION_DAYS)"
        )
        async with self.pool.transaction() as connection:
            if await invoices.load(connection, [order_id]):
                return
            total = Price(received, seen.currency)
            case = await attention.open_unknown_order(
                connection, btcpay_invoice_id, total, detail, self.clock()
            )
        if case is not None:
            named = fields(invoice=btcpay_invoice_id, order=order_id, case=case)
            log.warning("payment needs attention: an unknown order was paid", extra=named)

    async def _book_refund(self, btcpay_invoice_id: str, pull_payment_id: str) -> None:
        """Book a refund that was made in BTCPay's own pages; one that we ordered is booked already.

        The webhook's word that it is a refund of this invoice is not enough: BTCPay names it so.
        """
        async with self.pool.connection() as connection:
            of = await refunds.load_receipt(connection, btcpay_invoice_id)
            known = await refunds.load_booked(connection, [pull_payment_id])
        made = await at_btcpay.fetch(self.btcpay, pull_payment_id)
        if known or made is None or made.is_archived:
            return
        of = of or await self._second_receipt(btcpay_invoice_id)
        if of is None:
            return
        if made.name is not None and OURS.fullmatch(made.name):
            return
        problem = f"its name is {made.name!r}"
        if made.name == at_btcpay.name_in_pages(btcpay_invoice_id):
            try:
                booked, is_new = await booking.book_made(
                    self.pool,
                    self.clock,
                    of,
                    made,
                    who=fulfilment.BTCPAY,
                    reason="refunded in BTCPay's own pages",
                )
            except Conflict as error:
                problem = error.message
            else:
                if is_new:
                    named = fields(user=booked.user_id, invoice=btcpay_invoice_id, pull_payment=made.id)
                    log.info("booked a refund that was made in BTCPay", extra=named)
                return
        log.warning(
            "a refund was made in BTCPay and is not booked: %s; see: kosmo-billing refund record",
            problem,
            extra=fields(invoice=btcpay_invoice_id, pull_payment=pull_payment_id),
        )

    async def _second_receipt(self, btcpay_invoice_id: str) -> Receipt | None:
        """Return what came in on a further invoice of an order of ours, once it is the user's credit."""
        seen = await self.btcpay.fetch_invoice(btcpay_invoice_id)
        order_id = None if seen is None else _order(seen)
        if seen is None or order_id is None or seen.store_id != self.store_id:
            return None
        async with self.pool.connection() as connection:
            invoice = (await invoices.load(connection, [order_id])).get(InvoiceId(order_id))
            decided = (await attention.load_decided_twice(connection, [order_id])).get(order_id)
        if invoice is None or not decided:
            return None
        return Receipt(
            btcpay_invoice_id=btcpay_invoice_id,
            invoice_id=None,
            user_id=invoice.user_id,
            left=Price(decided, invoice.plan.price.currency),
        )

    async def _received(self, seen: Observation) -> Decimal:
        """Return what is confirmed, once it is final; until then further webhooks will come."""
        if seen.status in (InvoiceStatus.NEW, InvoiceStatus.PROCESSING):
            return Decimal(0)
        if needs_confirmation(seen):
            seen = await self.btcpay.fetch_confirmations(seen)
        if seen.confirmed_amount is not None:
            return seen.confirmed_amount
        if seen.status is not InvoiceStatus.SETTLED:
            return Decimal(0)
        return seen.amount if seen.paid_amount is None else seen.paid_amount


def _order(seen: Observation) -> UUID | None:
    """Return the order id if it is written as ours are; the store may sell other things too."""
    try:
        order_id = UUID(seen.order_id or "")
    except ValueError:
        return None
    return order_id if str(order_id) == seen.order_id else None
