"""What webhooks hint at beside our own invoices, and BTCPay is asked about: unknown orders and refunds."""

from collections.abc import Collection
from datetime import datetime

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection

Key = tuple[str, str]
"""An invoice at BTCPay and a pull payment, or an empty text."""


@record
class Inquiry:
    """One question; ``pull_payment_id`` is that of a refund, and empty where the order is not known."""

    btcpay_invoice_id: str
    pull_payment_id: str
    due_at: datetime

    @property
    def key(self) -> Key:
        return self.btcpay_invoice_id, self.pull_payment_id


_DUE = """
SELECT btcpay_invoice_id, pull_payment_id, due_at FROM inquiries
WHERE due_at <= $1 AND (btcpay_invoice_id, pull_payment_id) NOT IN (
    SELECT * FROM unnest($3::text[], $4::text[]))
ORDER BY due_at LIMIT $2
"""


async def load_due(
    connection: Connection, now: datetime, limit: int, resting: Collection[Key]
) -> list[Inquiry]:
    """Return what is due without what rests, oldest first."""
    invoices, pull_payments = [each for each, _ in resting], [each for _, each in resting]
    rows = await connection.fetch(_DUE, now, limit, invoices, pull_payments)
    return [Inquiry(**row) for row in rows]


_DELETE = "DELETE FROM inquiries WHERE btcpay_invoice_id = $1 AND pull_payment_id = $2 AND due_at = $3"


async def delete(connection: Connection, one: Inquiry) -> None:
    """Take out what is answered, unless it was hinted at again meanwhile."""
    await connection.execute(_DELETE, one.btcpay_invoice_id, one.pull_payment_id, one.due_at)
