"""What webhooks hint at beside our own invoices, and BTCPay is asked about: unknown orders and refunds."""

from collections.abc import Sequence
from datetime import datetime

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record
class Inquiry:
    """One question; ``pull_payment_id`` is that of a refund, and empty where the order is not known."""

    btcpay_invoice_id: str
    pull_payment_id: str
    due_at: datetime


_DUE = """
SELECT btcpay_invoice_id, pull_payment_id, due_at FROM inquiries WHERE due_at <= $1 ORDER BY due_at LIMIT $2
"""


async def load_due(connection: Connection, now: datetime, limit: int) -> Sequence[Inquiry]:
    """Return what is due, oldest first."""
    return [Inquiry(**row) for row in await connection.fetch(_DUE, now, limit)]


_DELETE = "DELETE FROM inquiries WHERE btcpay_invoice_id = $1 AND pull_payment_id = $2 AND due_at = $3"


async def delete(connection: Connection, one: Inquiry) -> None:
    """Take out what is answered, unless it was hinted at again meanwhile."""
    await connection.execute(_DELETE, one.btcpay_invoice_id, one.pull_payment_id, one.due_at)


_POSTPONE = """
UPDATE inquiries SET due_at = $4 WHERE btcpay_invoice_id = $1 AND pull_payment_id = $2 AND due_at = $3
"""


async def postpone(connection: Connection, one: Inquiry, until: datetime) -> None:
    """Ask again later, unless it was hinted at again meanwhile."""
    await connection.execute(_POSTPONE, one.btcpay_invoice_id, one.pull_payment_id, one.due_at, until)
