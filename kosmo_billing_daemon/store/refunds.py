"""Refunds that operators ordered: one open one per invoice, so that repeating the order finds it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection, changed


@record(kw_only=True)
class Refund:
    """One refund; without ``pull_payment_id`` it is not known yet whether BTCPay made it.

    Without ``user_id`` it is of an order that is not in this database. One that ``is_recorded`` was made in
    BTCPay's own pages.
    """

    id: int
    user_id: UserId | None
    invoice_id: InvoiceId | None
    btcpay_invoice_id: str
    total: Price
    pull_payment_id: str | None
    link: str | None
    ordered_at: datetime
    cancelled_at: datetime | None
    paid_at: datetime | None
    is_recorded: bool

    @property
    def name(self) -> str:
        """What it is called at BTCPay, where it is found by it."""
        return f"Refund {self.id} of {self.btcpay_invoice_id}"


_SELECT = """
SELECT r.id, r.user_id, r.invoice_id, r.btcpay_invoice_id, r.amount, r.currency, r.pull_payment_id, r.link,
    r.ordered_at, r.cancelled_at, r.paid_at, r.is_recorded
FROM refunds AS r
"""


def _refund(row: Any) -> Refund:
    values = dict(row)
    total = Price(values.pop("amount"), values.pop("currency"))
    return Refund(total=total, **values)


@record(kw_only=True)
class Receipt:
    """Money that came in on one invoice at BTCPay; ``left`` is what no refund names yet.

    Without ``user_id`` nobody knows whose it is.
    """

    btcpay_invoice_id: str
    invoice_id: InvoiceId | None
    user_id: UserId | None
    left: Price


# What an operator gave to a user as credit counts as what was decided about it.
_RECEIPTS = """
SELECT r.btcpay_invoice_id, r.invoice_id, r.user_id, r.currency, r.amount - coalesce((
        SELECT sum(f.amount) FROM refunds AS f
        WHERE f.btcpay_invoice_id = r.btcpay_invoice_id AND f.cancelled_at IS NULL AND (
            f.user_id IS NOT NULL OR r.user_id IS NOT NULL)
    ), 0) AS amount
FROM (
    SELECT i.btcpay_invoice_id, i.id AS invoice_id, i.user_id, q.currency, i.received AS amount,
        i.created_at AS at
    FROM btcpay_invoices AS i JOIN quotes AS q ON q.id = i.quote_id
    WHERE i.btcpay_invoice_id IS NOT NULL AND {invoices}
    UNION ALL
    SELECT btcpay_invoice_id, NULL, user_id, currency,
        CASE WHEN user_id IS NULL THEN amount - decided ELSE decided END, opened_at
    FROM attention_cases WHERE kind = 'unknown_order' AND btcpay_invoice_id IS NOT NULL AND {cases}
) AS r
ORDER BY r.at DESC, r.btcpay_invoice_id
"""
_OF_USER = _RECEIPTS.format(invoices="i.user_id = $1", cases="user_id = $1")
_OF_INVOICE = _RECEIPTS.format(
    invoices="i.id = (SELECT invoice_id FROM attachments WHERE btcpay_invoice_id = $1)",
    cases="btcpay_invoice_id = $1",
)


def _receipt(row: Any) -> Receipt:
    values = dict(row)
    left = Price(values.pop("amount"), values.pop("currency"))
    return Receipt(left=left, **values)


async def load_receipts(connection: Connection, user_id: UUID) -> list[Receipt]:
    """Return what a user paid, the newest first."""
    return [_receipt(row) for row in await connection.fetch(_OF_USER, user_id)]


async def load_receipt(connection: Connection, btcpay_invoice_id: str) -> Receipt | None:
    """Return what came in on one invoice at BTCPay, also for an order that is not known here."""
    row = await connection.fetchrow(_OF_INVOICE, btcpay_invoice_id)
    return None if row is None else _receipt(row)


async def load_ordered(connection: Connection, btcpay_invoices: Sequence[str]) -> list[Refund]:
    """Return the refunds of these invoices that we ordered and did not cancel, the newest first."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE r.btcpay_invoice_id = ANY ($1::text[]) AND r.cancelled_at IS NULL"
        " AND NOT r.is_recorded",
        list(btcpay_invoices),
    )
    return sorted((_refund(row) for row in rows), key=lambda one: -one.id)


async def load_recorded(connection: Connection, btcpay_invoice_id: str) -> list[Refund]:
    """Return refunds of an invoice that were made in BTCPay's pages and not cancelled, the newest first."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE r.btcpay_invoice_id = $1 AND r.cancelled_at IS NULL AND r.is_recorded"
        " ORDER BY r.id DESC",
        btcpay_invoice_id,
    )
    return [_refund(row) for row in rows]


async def load_booked(connection: Connection, pull_payments: Sequence[str]) -> dict[str, Refund]:
    """Return the refunds that are known by these ids of BTCPay."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE r.pull_payment_id = ANY ($1::text[])", list(pull_payments)
    )
    return {row["pull_payment_id"]: _refund(row) for row in rows}


async def load_of_user(connection: Connection, user_id: UUID) -> list[Refund]:
    """Return a user's refunds, newest first."""
    rows = await connection.fetch(f"{_SELECT} WHERE r.user_id = $1 ORDER BY r.id DESC", user_id)
    return [_refund(row) for row in rows]


_NEWEST = f"{_SELECT} WHERE r.id < $1 ORDER BY r.id DESC LIMIT $2"


async def load_newest(connection: Connection, before: int, limit: int) -> list[Refund]:
    """Return refunds of everybody, newest first, with numbers below ``before``."""
    return [_refund(row) for row in await connection.fetch(_NEWEST, before, limit)]


async def load(connection: Connection, refund_id: int) -> Refund | None:
    """Return one refund."""
    row = await connection.fetchrow(f"{_SELECT} WHERE r.id = $1", refund_id)
    return None if row is None else _refund(row)


_APPEND = """
INSERT INTO refunds (
    user_id, invoice_id, btcpay_invoice_id, amount, currency, ordered_at, tried_at, pull_payment_id, link,
    is_recorded)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $7::text IS NOT NULL)
"""


async def append(
    connection: Connection,
    of: Receipt,
    total: Price,
    at: datetime,
    *,
    pull_payment_id: str | None = None,
    link: str | None = None,
) -> None:
    """Write an order down, before BTCPay is asked; or what was made in BTCPay's pages, with its id there."""
    order = of.user_id, of.invoice_id, of.btcpay_invoice_id, total.amount, total.currency, at
    await connection.execute(_APPEND, *order, pull_payment_id, link)


async def note_paid(connection: Connection, refund_id: int, at: datetime) -> None:
    """Note that BTCPay has paid all of it, so that another of the same invoice may be ordered."""
    await connection.execute(
        "UPDATE refunds SET paid_at = $2 WHERE id = $1 AND cancelled_at IS NULL", refund_id, at
    )


_CLAIM_TRY = """
UPDATE refunds SET tried_at = $2
WHERE id = $1 AND pull_payment_id IS NULL AND tried_at <= $2::timestamptz - $3::interval
"""


async def claim_try(connection: Connection, refund_id: int, now: datetime, apart: timedelta) -> bool:
    """Say whether BTCPay may be asked for it now: the last try was longer ago than it can take."""
    return bool(changed(await connection.execute(_CLAIM_TRY, refund_id, now, apart)))


async def attach(connection: Connection, refund_id: int, pull_payment_id: str, link: str) -> None:
    """Note what BTCPay made of it."""
    await connection.execute(
        "UPDATE refunds SET pull_payment_id = $2, link = $3 WHERE id = $1", refund_id, pull_payment_id, link
    )


_SHRINK = """
UPDATE refunds SET amount = $2, paid_at = $3 WHERE id = $1 AND cancelled_at IS NULL AND amount > $2
"""


async def shrink(connection: Connection, refund_id: int, paid: Decimal, at: datetime) -> bool:
    """Note that no more than ``paid`` of a refund, which is paid, can go out; say whether that is new."""
    return bool(changed(await connection.execute(_SHRINK, refund_id, paid, at)))


_CANCEL = "UPDATE refunds SET cancelled_at = $2 WHERE id = $1 AND cancelled_at IS NULL"


async def cancel(connection: Connection, refund_id: int, at: datetime) -> bool:
    """Say whether it was open until now, and cancel it."""
    return bool(changed(await connection.execute(_CANCEL, refund_id, at)))
