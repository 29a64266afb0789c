"""Refunds in the books: the one place where what goes back, or comes back, is written into the ledger."""

from datetime import datetime

from kosmo_billing_daemon.btcpay.refunds import PullPayment
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.ledger import EntryKind, Posting
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services import fulfilment
from kosmo_billing_daemon.store import audit, refunds
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_owners
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
    pool: Pool, clock: Clock, found: Invoice, made: PullPayment, *, who: str, reason: str
) -> tuple[Refund, bool]:
    """Book a refund that was made in BTCPay's own pages; returns it, and whether it was not booked before.

    The user's credit can fall below zero by it: then the plan that the money paid for was not taken back.
    Raises ``Conflict`` for a refund in another currency.
    """
    if made.total.currency != found.plan.price.currency:
        raise Conflict(
            f"it is in {made.total.currency}, the invoice in {found.plan.price.currency}: a refund in"
            " another currency cannot be booked",
            code="refund_currency",
        )

    async def work(connection: Connection) -> tuple[Refund, bool]:
        now = clock()
        known = await refunds.load_booked(connection, [made.id])
        is_new = made.id not in known
        if is_new:
            of = Receipt(
                btcpay_invoice_id=found.btcpay_invoice_id or "",
                invoice_id=found.id,
                user_id=found.user_id,
                left=made.total,
            )
            await refunds.record_made(
                connection, of, made.total, now, pull_payment_id=made.id, link=made.link
            )
            await book(connection, found.user_id, of, made.total, now, who=who, reason=reason)
            known = await refunds.load_booked(connection, [made.id])
        return known[made.id], is_new

    return await pool.retrying(work, locking_owners([found.id]))
