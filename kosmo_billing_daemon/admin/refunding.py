"""Refunds: what a user has in credit goes back through BTCPay.

The rule it keeps: the credit is taken before BTCPay is asked, so no sum goes out twice; and it is given back
only when BTCPay said no, or when nobody can claim it any more. After anything else the order stands, and the
same command completes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.btcpay import refunds as at_btcpay
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.btcpay.refunds import ClaimState
from kosmo_billing_daemon.domain.currencies import rounded_down, smallest_unit
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services import refunds as booking
from kosmo_billing_daemon.store import attention, audit, invoices, ledger, refunds
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users
from kosmo_billing_daemon.store.refunds import Receipt, Refund

TRIES_APART = timedelta(minutes=1)
"""How long one try may take; BTCPay knows no idempotency, so a second one must not run beside it."""


@record(kw_only=True)
class Refunding:
    """Orders, completes and cancels refunds."""

    pool: Pool
    btcpay: BtcpayClient
    clock: Clock

    async def refund(
        self, name: str, amount: Decimal | None, by: OperatorAction, *, another: bool = False
    ) -> Refund:
        """Refund what an invoice brought in, as far as the user's credit goes; a repeat returns the same.

        Money for an unknown order is refunded whole, and its case is closed. ``another`` orders one more
        after BTCPay has paid the last. Raises ``Conflict`` where there is no such credit, ``Invalid`` for a
        sum that cannot be paid out.
        """
        (made,) = await self.refund_all(name, amount, by, another=another)
        return made

    async def refund_all(
        self, of: UserId | str, amount: Decimal | None, by: OperatorAction, *, another: bool = False
    ) -> list[Refund]:
        """Refund a user's credit by the invoices that brought money in, the newest first.

        It is of one such invoice alone where its name is given instead of the user.
        """
        found, is_new = await self.order(of, amount, by, another=another)
        return [
            one if one.pull_payment_id is not None else await self._complete(one, by, is_new=is_new)
            for one in found
        ]

    async def order(
        self, of: UserId | str, amount: Decimal | None, by: OperatorAction, *, another: bool
    ) -> tuple[list[Refund], bool]:
        """Take the credit, or find what was ordered before; returns the refunds, and whether they are new.

        A refund begins with this before BTCPay is asked: it is all that a preview needs.
        """
        user_id, receipts = await self._receipts(of)
        names = [one.btcpay_invoice_id for one in receipts]
        if another:
            await self._note_paid(names)

        async def order(connection: Connection) -> tuple[list[Refund], bool]:
            known = await refunds.load_ordered(connection, names)
            standing = [one for one in known if one.paid_at is None] or ([] if another else known[:1])
            if standing:
                _require_same(standing, amount)
                return standing, False
            now = self.clock()
            if user_id is None:
                await self._order_unknown(connection, receipts, amount, by, now)
            else:
                for one, total in await self._shares(connection, user_id, names, amount):
                    await refunds.append(connection, one, total, now)
                    await booking.book(connection, user_id, one, total, now, who=by.who, reason=by.reason)
            made = await refunds.load_ordered(connection, names)
            return [one for one in made if one.paid_at is None], True

        return await self.pool.retrying(order, locking_users([] if user_id is None else [user_id]))

    async def _note_paid(self, names: Sequence[str]) -> None:
        """Find out which refunds are over: BTCPay has completed payouts of the whole sum."""
        known = await self.pool.read(refunds.load_ordered, names)
        for one in known:
            if one.paid_at is not None or one.pull_payment_id is None:
                continue
            claims = await at_btcpay.fetch_claims(self.btcpay, one.pull_payment_id)
            paid = sum((c.amount for c in claims if c.state is ClaimState.COMPLETED), Decimal(0))
            if paid >= one.total.amount:
                async with self.pool.connection() as connection:
                    await refunds.note_paid(connection, one.id, self.clock())

    async def _order_unknown(
        self,
        connection: Connection,
        receipts: Sequence[Receipt],
        amount: Decimal | None,
        by: OperatorAction,
        now: datetime,
    ) -> None:
        """Order the refund of an unknown order, which is in no ledger, and close its case."""
        (one,) = receipts
        case = await attention.lock_unknown_order(connection, one.btcpay_invoice_id)
        if case is None or case[1] <= 0:
            raise Conflict("the case of this order was decided before", code="closed_before")
        number, left = case
        total = Price(left, one.left.currency)
        if amount not in (None, left):
            raise Conflict(f"all of it is refunded: {left:f} {total.currency}", code="refund_whole")
        await refunds.append(connection, one, total, now)
        await attention.decide(connection, number, f"refunded by {by.who}: {by.reason}", now)
        about = f"invoice {one.btcpay_invoice_id}, {left:f} {total.currency}"
        await audit.append(connection, by.entry("invoice.refund", None, about, now))

    async def cancel(self, name: str, by: OperatorAction) -> Refund:
        """Take back a refund that nobody has claimed, or what is left of one; the credit is the user's again.

        One that we ordered comes first, then those that were made in BTCPay's own pages.
        """
        one = await self._receipt(name)
        async with self.pool.connection() as connection:
            known = await refunds.load_ordered(connection, [one.btcpay_invoice_id])
            known += await refunds.load_recorded(connection, one.btcpay_invoice_id)
        standing = [each for each in known if each.paid_at is None]
        if not standing:
            raise NotFound(f"invoice {name} has no refund that is open")
        for each in standing:
            refund = each
            if refund.pull_payment_id is None:
                refund = await self._complete(refund, by, is_new=False)
            left = await self._archive(refund)
            if left > 0:
                await self._give_back(refund, by, left)
                return replace(refund, total=Price(left, refund.total.currency))
        told = "somebody has claimed it: approve or cancel the claim in BTCPay"
        raise Conflict(told, code="refund_claimed")

    async def _archive(self, refund: Refund) -> Decimal:
        """Let nobody claim what is left of a refund any more, unless a claim waits; return how much it is."""
        if not await self._unclaimed(refund):
            return Decimal(0)
        await at_btcpay.archive(self.btcpay, refund.pull_payment_id or "")
        return await self._unclaimed(refund)  # archiving cancels claims but those that are being paid

    async def _unclaimed(self, refund: Refund) -> Decimal:
        name = refund.pull_payment_id or ""
        claims = await at_btcpay.fetch_claims(self.btcpay, name)
        if not claims:
            return refund.total.amount
        made = await at_btcpay.fetch(self.btcpay, name)
        is_comparable = made is not None and made.total.currency == refund.total.currency
        if not is_comparable or any(each.state is not ClaimState.COMPLETED for each in claims):
            return Decimal(0)
        return refund.total.amount - sum((each.amount for each in claims), Decimal(0))

    async def record(
        self, name: str, pull_payment_id: str, by: OperatorAction, *, worth: Decimal | None = None
    ) -> Refund:
        """Book a refund that was made in BTCPay's own pages; a repeat changes nothing.

        The user's credit can fall below zero by it: then the plan that the money paid for was not taken back.
        ``worth`` says how much a refund in another currency was in that of the invoice.
        """
        of = await self._receipt(name)
        unit = smallest_unit(of.left.currency)
        if worth is not None and (worth <= 0 or worth % unit):
            raise Invalid(f"an amount in steps of {unit:f} {of.left.currency}", field="amount")
        made = await at_btcpay.fetch(self.btcpay, pull_payment_id)
        if made is None:
            raise NotFound(f"BTCPay has no pull payment {pull_payment_id!r}")
        if made.is_archived and not await at_btcpay.fetch_claims(self.btcpay, made.id):
            raise Conflict("it is archived, and nobody has claimed it", code="refund_archived")
        booked, _ = await booking.book_made(
            self.pool, self.clock, of, made, who=by.who, reason=by.reason, worth=worth
        )
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
                await self._give_back(refund, by, refund.total.amount)
                raise
        async with self.pool.transaction() as connection:
            await refunds.attach(connection, refund.id, made.id, made.link)
        return replace(refund, pull_payment_id=made.id, link=made.link)

    async def _give_back(self, refund: Refund, by: OperatorAction, left: Decimal) -> None:
        async def work(connection: Connection) -> None:
            now = self.clock()
            paid = refund.total.amount - left
            if paid:
                is_new = await refunds.shrink(connection, refund.id, paid, now)
            else:
                is_new = await refunds.cancel(connection, refund.id, now)
            if not is_new:
                return
            if refund.user_id is None:
                await attention.reopen_unknown_order(connection, refund.btcpay_invoice_id, left)
                return
            back = Price(-left, refund.total.currency)
            await booking.book(connection, refund.user_id, refund, back, now, who=by.who, reason=by.reason)

        users = [] if refund.user_id is None else [refund.user_id]
        await self.pool.retrying(work, locking_users(users))

    async def _receipts(self, of: UserId | str) -> tuple[UserId | None, Sequence[Receipt]]:
        """Return whose credit it is, and what came in on one invoice, or on all of a user's."""
        if isinstance(of, str):
            one = await self._receipt(of)
            return one.user_id, [one]
        async with self.pool.connection() as connection:
            return of, await refunds.load_receipts(connection, of)

    async def _receipt(self, name: str) -> Receipt:
        """Return what came in on an invoice, which may be one of an order that is not known here."""
        async with self.pool.connection() as connection:
            found = await invoices.find_invoice(connection, name)
            if found is not None and found.btcpay_invoice_id is None:
                raise Conflict("BTCPay received nothing for this invoice", code="not_attached")
            one = await refunds.load_receipt(connection, (found and found.btcpay_invoice_id) or name)
        if one is None:
            raise NotFound(f"there is no invoice {name!r}")
        return one

    async def _shares(
        self, connection: Connection, user_id: UserId, names: Sequence[str], amount: Decimal | None
    ) -> list[tuple[Receipt, Price]]:
        """Share a sum, or all free credit, among the invoices that brought it in."""
        known = await refunds.load_receipts(connection, user_id)
        receipts = [one for one in known if one.btcpay_invoice_id in names]
        credit = await ledger.load_free_credit(connection, [user_id])
        free = {currency: total for (_, currency), total in credit.items()}
        most = {
            currency: rounded_down(
                min(
                    free[currency],
                    sum((one.left.amount for one in receipts if one.left.currency == currency), Decimal(0)),
                ),
                currency,
            )
            for currency in {one.left.currency for one in receipts} & free.keys()
        }
        most = {currency: total for currency, total in most.items() if total > 0}
        if not most:
            left = " and ".join(f"{total:f} {currency}" for currency, total in sorted(free.items())) or "0"
            raise Conflict(
                f"nothing can be refunded: the user's free credit is {left}, and no invoice brought in more"
                " than was refunded",
                code="no_credit",
            )
        if amount is not None:
            most = _limited(most, amount)
        shares: list[tuple[Receipt, Price]] = []
        for one in receipts:
            currency = one.left.currency
            part = min(rounded_down(one.left.amount, currency), most.get(currency, Decimal(0)))
            if part > 0:
                shares.append((one, Price(part, currency)))
                most[currency] -= part
        return shares


def _limited(most: Mapping[str, Decimal], amount: Decimal) -> dict[str, Decimal]:
    """Take a sum instead of all that can be refunded."""
    if len(most) > 1:
        raise Invalid("the user has credit in several currencies: name an invoice", field="amount")
    ((currency, total),) = most.items()
    if amount <= 0 or amount % smallest_unit(currency):
        raise Invalid(f"an amount in steps of {smallest_unit(currency):f} {currency}", field="amount")
    if amount > total:
        raise Conflict(f"at most {total:f} {currency} can be refunded", code="no_credit")
    return {currency: amount}


def _require_same(standing: Sequence[Refund], amount: Decimal | None) -> None:
    """Refuse another sum than the one that is being refunded, or was."""
    total = sum((one.total.amount for one in standing), Decimal(0))
    if amount in (None, total):
        return
    sum_ = f"{total:f} {standing[0].total.currency}"
    if standing[0].paid_at is not None:
        raise Conflict(f"a refund of {sum_} was paid; add --another for one more", code="refund_paid")
    raise Conflict(
        f"a refund of {sum_} is open; cancel it first, or add --another once it is paid", code="refund_open"
    )


def read_amount(given: str) -> Decimal:
    """Read an amount as people write it; raises ``Invalid``."""
    try:
        amount = Decimal(given)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise Invalid("an amount such as 4.10 is needed", field="amount")
    return amount
