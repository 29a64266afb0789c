"""Refunds in the books: the one place where what goes back, or comes back, is written into the ledger."""

from datetime import datetime
from decimal import Decimal

from kosmo_billing_daemon.btcpay.refunds import PullPayment
from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.store import audit, refunds
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners, locking_users
from kosmo_billing_daemon.store.refunds import Receipt, Refund


async def book(
    connection: Connection,
    user_id: UserId,
    of: Receipt | Refund,
    total: Price,
    now: datetime,
    *,
    who: str,
    reason: str,
) -> None:
    """Book a refund to a user, or with a negative sum that one was cancelled; the user is locked."""
    posting = Posting(
        user_id=user_id,
        kind=EntryKind.REFUNDED,
        amount=-total.amount,
        currency=total.currency,
        invoice_id=of.invoice_id,
        who=who,
        reason=reason,
    )
    told = fulfilment.credit_event(posting, "refund" if total.amount > 0 else "refund_cancelled", now)
    await fulfilment.write(connection, [], [told], now, postings=[posting])
    entry = AuditEntry(
        at=now,
        who=who,
        action="invoice.refund" if total.amount > 0 else "invoice.refund_cancel",
        user_id=user_id,
        subject=f"invoice {of.btcpay_invoice_id}, {abs(total.amount):f} {total.currency}",
        reason=reason,
    )
    await audit.append(connection, entry)


async def book_made(
    pool: Pool,
    clock: Clock,
    of: Receipt,
    made: PullPayment,
    *,
    who: str,
    reason: str,
    worth: Decimal | None = None,
) -> tuple[Refund, bool]:
    """Book a refund that was made in BTCPay's own pages; returns it, and whether it was not booked before.

    The user's credit can fall below zero by it: then the plan that the money paid for was not taken back.
    ``worth`` says how much a refund in another currency was in that of the receipt; without it, such a
    refund raises ``Conflict``.
    """
    user_id, total = of.user_id, made.total
    if user_id is None:
        raise Conflict("nobody knows whose the money is; decide its case", code="unknown_order")
    if made.total.currency != of.left.currency:
        if worth is None:
            raise Conflict(
                f"it is in {made.total.currency}, the invoice in {of.left.currency}: kosmo-billing refund"
                f" record takes --amount, how much it was in {of.left.currency}",
                code="refund_currency",
            )
        total = Price(worth, of.left.currency)
    elif worth not in (None, made.total.amount):
        raise Conflict(f"it is over {total.amount:f} {total.currency}", code="refund_amount")

    async def work(connection: Connection) -> tuple[Refund, bool]:
        now = clock()
        known = await refunds.load_booked(connection, [made.id])
        is_new = made.id not in known
        if is_new:
            await refunds.append(connection, of, total, now, pull_payment_id=made.id, link=made.link)
            await book(connection, user_id, of, total, now, who=who, reason=reason)
            known = await refunds.load_booked(connection, [made.id])
        return known[made.id], is_new

    locking = locking_users([user_id]) if of.invoice_id is None else locking_owners([of.invoice_id])
    return await pool.retrying(work, locking)
