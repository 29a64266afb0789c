"""Refunds that operators ordered: one open one per invoice, so that repeating the order finds it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record(kw_only=True)
class Refund:
    """One refund; without ``pull_payment_id`` it is not known yet whether BTCPay made it."""

    id: int
    user_id: UserId
    invoice_id: InvoiceId
    btcpay_invoice_id: str
    total: Price
    pull_payment_id: str | None
    link: str | None
    ordered_at: datetime
    cancelled_at: datetime | None

    @property
    def name(self) -> str:
        """What it is called at BTCPay, where it is found by it."""
        return f"Refund {self.id} of {self.btcpay_invoice_id}"


_SELECT = """
SELECT r.id, r.user_id, r.invoice_id, i.btcpay_invoice_id, r.amount, r.currency, r.pull_payment_id, r.link,
    r.ordered_at, r.cancelled_at
FROM refunds AS r JOIN btcpay_invoices AS i ON i.id = r.invoice_id
"""


def _refund(row: Any) -> Refund:
    values = dict(row)
    total = Price(values.pop("amount"), values.pop("currency"))
    return Refund(total=total, **values)


async def find_open(connection: Connection, invoice_id: UUID) -> Refund | None:
    """Return the refund of an invoice that we ordered and did not cancel, if there is one."""
    row = await connection.fetchrow(
        f"{_SELECT} WHERE r.invoice_id = $1 AND r.cancelled_at IS NULL AND NOT r.is_recorded", invoice_id
    )
    return None if row is None else _refund(row)


async def load_booked(connection: Connection, pull_payments: Sequence[str]) -> dict[str, Refund]:
    """Return the refunds that are known by these ids of BTCPay."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE r.pull_payment_id = ANY ($1::text[])", list(pull_payments)
    )
    return {row["pull_payment_id"]: _refund(row) for row in rows}


_RECORD = """
INSERT INTO refunds (
    user_id, invoice_id, amount, currency, ordered_at, tried_at, pull_payment_id, link, is_recorded)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, true)
"""


async def record_made(
    connection: Connection, invoice: Invoice, total: Price, at: datetime, *, pull_payment_id: str, link: str
) -> None:
    """Write down a refund that was made in BTCPay's own pages."""
    await connection.execute(
        _RECORD, invoice.user_id, invoice.id, total.amount, total.currency, at, pull_payment_id, link
    )


async def load_of_user(connection: Connection, user_id: UUID) -> list[Refund]:
    """Return a user's refunds, newest first."""
    rows = await connection.fetch(f"{_SELECT} WHERE r.user_id = $1 ORDER BY r.id DESC", user_id)
    return [_refund(row) for row in rows]


_APPEND = """
INSERT INTO refunds (user_id, invoice_id, amount, currency, ordered_at, tried_at)
VALUES ($1, $2, $3, $4, $5, $5)
"""


async def append(connection: Connection, user_id: UUID, invoice_id: UUID, total: Price, at: datetime) -> None:
    """Write an order down, before BTCPay is asked."""
    await connection.execute(_APPEND, user_id, invoice_id, total.amount, total.currency, at)


_CLAIM_TRY = """
UPDATE refunds SET tried_at = $2
WHERE id = $1 AND pull_payment_id IS NULL AND tried_at <= $2::timestamptz - $3::interval
"""


async def claim_try(connection: Connection, refund_id: int, now: datetime, apart: timedelta) -> bool:
    """Say whether BTCPay may be asked for it now: the last try was longer ago than it can take."""
    return bool(await connection.execute(_CLAIM_TRY, refund_id, now, apart) == "UPDATE 1")


async def attach(connection: Connection, refund_id: int, pull_payment_id: str, link: str) -> None:
    """Note what BTCPay made of it."""
    await connection.execute(
        "UPDATE refunds SET pull_payment_id = $2, link = $3 WHERE id = $1", refund_id, pull_payment_id, link
    )


async def cancel(connection: Connection, refund_id: int, at: datetime) -> bool:
    """Say whether it was open until now, and cancel it."""
    result = await connection.execute(
        "UPDATE refunds SET cancelled_at = $2 WHERE id = $1 AND cancelled_at IS NULL", refund_id, at
    )
    return bool(result == "UPDATE 1")
