"""When an open invoice is looked up without a hint (section 3: reconciliation is mandatory)."""

from datetime import datetime, timedelta

from kosmo_billing_daemon.domain.invoices import LATE_LIMIT, Effect, Invoice, InvoiceStatus, Payment


class Patience:
    """When an open invoice is looked up again without a hint: often when young, seldom when old."""

    FIRST = timedelta(seconds=15)
    MOST = timedelta(minutes=30)
    AFTER_LATE_LIMIT = timedelta(hours=24)
    MARKED = timedelta(hours=72)


def next_check(invoice: Invoice, now: datetime) -> datetime | None:
    """Return when to poll the invoice next (section 3), or ``None`` when nothing is awaited.

    The wait is a tenth of the invoice's age between 15 s and 30 min; an expiry in between is looked at
    a little after it happened. Expired invoices, and invalid ones with money on them, are polled until
    72 h after expiry, unconfirmed late payments for a day more so that the case is listed. What BTCPay
    still calls open after that is asked for ever more seldom. What was marked by hand can be marked
    again (R8), so it is looked at for 72 h, in case the webhook that tells is lost.
    """
    if invoice.payment is Payment.MARKED:
        since = invoice.settled_at or invoice.expires_at or invoice.created_at
        due = now + min(Patience.MOST, max(Patience.FIRST, (now - since) / 10))
        return due if now < since + Patience.MARKED else None
    if invoice.status in (InvoiceStatus.SETTLED, InvoiceStatus.ABANDONED):
        return None
    is_late = invoice.status is InvoiceStatus.EXPIRED and invoice.payment is Payment.LATE
    if invoice.effect not in (Effect.NONE, Effect.DECLINED) and not is_late:
        return None
    if invoice.status is InvoiceStatus.INVALID and not invoice.paid_amount:
        return None
    wait = max(Patience.FIRST, (now - invoice.created_at) / 10)
    is_open = invoice.status in (InvoiceStatus.NEW, InvoiceStatus.PROCESSING)
    if not is_open or invoice.expires_at is None or now < invoice.expires_at + LATE_LIMIT:
        wait = min(Patience.MOST, wait)
    due = now + wait
    if invoice.expires_at is None:
        return due
    if invoice.status is InvoiceStatus.NEW and now < invoice.expires_at < due:
        return invoice.expires_at + timedelta(seconds=3)
    if invoice.status in (InvoiceStatus.EXPIRED, InvoiceStatus.INVALID):
        last = invoice.expires_at + LATE_LIMIT
        if invoice.payment is Payment.LATE:
            last += Patience.AFTER_LATE_LIMIT
        if now >= last:
            return None
        return min(due, last + timedelta(seconds=1))
    return due
