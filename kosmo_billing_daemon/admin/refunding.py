"""Refunds: what a user has in credit goes back through BTCPay.

The rule it keeps: the credit is taken before BTCPay is asked, so no sum goes out twice; and it is given back
only when BTCPay said no, or when nobody can claim it any more. After anything else the order stands, and the
same command completes it.
"""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.btcpay import refunds as at_btcpay
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.domain.currencies import rounded_down, smallest_unit
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import refunds as booking
from kosmo_billing_daemon.store import invoices, ledger, listings, refunds
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners
from kosmo_billing_daemon.store.refunds import Refund

TRIES_APART = timedelta(minutes=1)
"""How long one try may take; BTCPay knows no idempotency, so a second one must not run beside it."""


@record(kw_only=True)
class Refunding:
    """Orders, completes and cancels refunds."""

    pool: Pool
    btcpay: BtcpayClient
    clock: Clock

    async def refund(self, name: str, amount: Decimal | None, by: OperatorAction) -> Refund:
        """Refund what an invoice brought in, as far as the user's credit goes; a repeat returns the same.

        Raises ``Conflict`` where there is no such credit, ``Invalid`` for a sum that cannot be paid out.
        """
        found = await self._find(name)

        async def order(connection: Connection) -> tuple[Refund, bool]:
            known = await refunds.find_open(connection, found.id)
            if known is not None:
                if amount not in (None, known.total.amount):
                    sum_ = f"{known.total.amount:f} {known.total.currency}"
                    raise Conflict(f"a refund of {sum_} is open; cancel it first", code="refund_open")
                return known, False
            now = self.clock()
            total = await self._total(connection, found, amount)
            await refunds.append(connection, found.user_id, found.id, total, now)
            await booking.book(connection, found, total, now, who=by.who, reason=by.reason)
            made = await refunds.find_open(connection, found.id)
            if made is None:
                raise NotFound("the refund vanished")
            return made, True

        refund, is_new = await self.pool.retrying(order, locking_owners([found.id]))
        return (
            refund if refund.pull_payment_id is not None else await self._complete(refund, by, is_new=is_new)
        )

    async def cancel(self, name: str, by: OperatorAction) -> Refund:
        """Take back a refund that nobody has claimed; the credit is the user's again."""
        found = await self._find(name)
        async with self.pool.connection() as connection:
            refund = await refunds.find_open(connection, found.id)
        if refund is None:
            raise NotFound(f"invoice {name} has no refund that is open")
        if refund.pull_payment_id is None:
            refund = await self._complete(refund, by, is_new=False)
        claimed = "somebody has claimed it: approve or cancel the claim in BTCPay"
        if await at_btcpay.fetch_claims(self.btcpay, refund.pull_payment_id or ""):
            raise Conflict(claimed, code="refund_claimed")
        await at_btcpay.archive(self.btcpay, refund.pull_payment_id or "")
        # Archiving cancels claims but those that are being paid.
        if await at_btcpay.fetch_claims(self.btcpay, refund.pull_payment_id or ""):
            raise Conflict(claimed, code="refund_claimed")
        await self._give_back(refund, by)
        return refund

    async def record(self, name: str, pull_payment_id: str, by: OperatorAction) -> Refund:
        """Book a refund that was made in BTCPay's own pages; a repeat changes nothing.

        The user's credit can fall below zero by it: then the plan that the money paid for was not taken back.
        """
        found = await self._find(name)
        made = await at_btcpay.fetch(self.btcpay, pull_payment_id)
        if made is None:
            raise NotFound(f"BTCPay has no pull payment {pull_payment_id!r}")
        if made.is_archived and not await at_btcpay.fetch_claims(self.btcpay, made.id):
            raise Conflict("it is archived, and nobody has claimed it", code="refund_archived")
        booked, _ = await booking.book_made(self.pool, self.clock, found, made, who=by.who, reason=by.reason)
        return booked

    async def _complete(self, refund: Refund, by: OperatorAction, *, is_new: bool) -> Refund:
        """Have BTCPay make it, unless an earlier try did; two tries never run at once."""
        if not is_new:
            async with self.pool.connection() as connection:
                if not await refunds.claim_try(connection, refund.id, self.clock(), TRIES_APART):
                    raise Conflict(
                        "the refund is being made; repeat the command in a minute", code="refund_in_progress"
                    )
        made = None if is_new else await at_btcpay.find(self.btcpay, refund.name)
        if made is None:
            try:
                made = await at_btcpay.refund(
                    self.btcpay, refund.btcpay_invoice_id, refund.total, refund.name
                )
            except (BtcpayRefused, BtcpayDenied):
                await self._give_back(refund, by)
                raise
        async with self.pool.transaction() as connection:
            await refunds.attach(connection, refund.id, made.id, made.link)
        return replace(refund, pull_payment_id=made.id, link=made.link)

    async def _give_back(self, refund: Refund, by: OperatorAction) -> None:
        async def work(connection: Connection) -> None:
            now = self.clock()
            found = (await invoices.load(connection, [refund.invoice_id]))[refund.invoice_id]
            if await refunds.cancel(connection, refund.id, now):
                back = Price(-refund.total.amount, refund.total.currency)
                await booking.book(connection, found, back, now, who=by.who, reason=by.reason)

        await self.pool.retrying(work, locking_owners([refund.invoice_id]))

    async def _find(self, name: str) -> Invoice:
        async with self.pool.connection() as connection:
            found = await listings.find_invoice(connection, name)
        if found is None:
            raise NotFound(f"there is no invoice {name!r}")
        if found.btcpay_invoice_id is None:
            raise Conflict("BTCPay received nothing for this invoice", code="not_attached")
        return found

    async def _total(self, connection: Connection, found: Invoice, amount: Decimal | None) -> Price:
        currency = found.plan.price.currency
        key = (found.user_id, currency)
        balances = await ledger.load_balances(connection, [found.user_id])
        reserved = await invoices.load_reserved_credit(connection, [found.user_id])
        credit = balances.get(key, Decimal(0)) - reserved.get(key, Decimal(0))
        most = rounded_down(min(credit, found.received), currency)
        if most <= 0:
            raise Conflict(
                f"nothing can be refunded: the user's credit is {credit:f} {currency}, and what this invoice"
                f" brought in is {found.received:f}",
                code="no_credit",
            )
        wanted = most if amount is None else amount
        if wanted <= 0 or wanted % smallest_unit(currency):
            raise Invalid(f"an amount in steps of {smallest_unit(currency):f} {currency}", field="amount")
        if wanted > most:
            raise Conflict(f"at most {most:f} {currency} can be refunded", code="no_credit")
        return Price(wanted, currency)
