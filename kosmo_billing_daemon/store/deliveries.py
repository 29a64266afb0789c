"""Webhook deliveries: each becomes a due lookup and a row of a log that nothing changes, in one statement."""

from collections.abc import Sequence
from datetime import datetime

from kosmo_billing_daemon.contract.encoding import CANONICAL_UUID
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.columns import Columns
from kosmo_billing_daemon.store.postgres import Connection, changed


@record
class Delivery:
    """One webhook POST, reduced to what it hints at; ``claimed_status`` only where the body is believed."""

    delivery_id: str
    received_at: datetime
    type: str
    btcpay_invoice_id: str | None
    order_id: str | None
    store_id: str | None
    pull_payment_id: str | None = None
    claimed_status: str | None = None


_LOGGED = Columns(
    ("delivery_id", "text", "delivery_id"),
    ("received_at", "timestamptz", "received_at"),
    ("type", "text", "type"),
    ("btcpay_invoice_id", "text", "btcpay_invoice_id"),
    ("order_id", "text", "order_id"),
    ("store_id", "text", "store_id"),
)
_HINTS = Columns(
    *_LOGGED,
    ("pull_payment_id", "text", "pull_payment_id"),
    ("claimed_status", "text", "claimed_status"),
)

# A hint is due a day before it came: before what is only polled, and whatever the leader's clock says.
_DUE = "received_at - interval '1 day'"

_IS_ORDER = f"order_id ~ '^{CANONICAL_UUID.pattern}$'"

# BTCPay's id is unique to a store, and our order id is ours alone; a hint mostly carries both. Where the
# body is believed, BTCPay is not asked about anything else.
_APPEND = f"""
WITH hints AS MATERIALIZED (
    SELECT row.*, ARRAY(
        SELECT invoice_id FROM attachments WHERE btcpay_invoice_id = row.btcpay_invoice_id
        UNION ALL
        SELECT id FROM btcpay_invoices WHERE id = CASE
            WHEN row.{_IS_ORDER} THEN row.order_id::uuid END) AS invoices
    FROM unnest({_HINTS.parameters}) WITH ORDINALITY AS row ({_HINTS}, place)
), logged AS (
    INSERT INTO webhook_deliveries ({_LOGGED}, outcome)
    SELECT {_LOGGED}, CASE invoices WHEN '{{}}' THEN 'not ours' ELSE 'ours' END FROM hints
    ON CONFLICT (delivery_id) DO NOTHING RETURNING delivery_id
), inquired AS (
    INSERT INTO inquiries (btcpay_invoice_id, pull_payment_id, due_at)
    SELECT btcpay_invoice_id, CASE invoices WHEN '{{}}' THEN '' ELSE pull_payment_id END, max({_DUE})
    FROM hints JOIN logged USING (delivery_id)
    WHERE btcpay_invoice_id IS NOT NULL AND claimed_status IS NULL
        AND CASE invoices WHEN '{{}}' THEN {_IS_ORDER} ELSE pull_payment_id IS NOT NULL END
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (btcpay_invoice_id, pull_payment_id) DO UPDATE SET due_at = EXCLUDED.due_at
)
INSERT INTO lookups (due_at, invoice_id, hinted_at, claimed_status)
SELECT DISTINCT ON (1, 2) {_DUE}, invoice_id, received_at, claimed_status
FROM hints JOIN logged USING (delivery_id), unnest(invoices) AS invoice_id
ORDER BY 1, 2, place DESC
"""


async def append(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Log deliveries and have their invoices looked up; one that is known already changes nothing."""
    await connection.execute(_APPEND, *_HINTS.values(deliveries))


async def remove(connection: Connection, before: datetime, limit: int) -> int:
    """Forget deliveries that came long ago; returns how many."""
    return changed(await connection.execute(_REMOVE, before, limit))


_REMOVE = """
DELETE FROM webhook_deliveries WHERE delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE received_at < $1 ORDER BY received_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
"""


@record
class LoggedDelivery:
    """One webhook delivery, and what became of it."""

    delivery_id: str
    received_at: datetime
    type: str
    outcome: str
    btcpay_invoice_id: str | None = None
    order_id: str | None = None
    store_id: str | None = None


_SELECT = f"SELECT {_LOGGED}, outcome FROM webhook_deliveries"
_NEWEST = f"{_SELECT} ORDER BY received_at DESC LIMIT $1"
_NOT_OURS = f"{_SELECT} WHERE outcome = 'not ours' ORDER BY received_at DESC LIMIT $1"


async def load_newest(connection: Connection, limit: int, *, not_ours: bool) -> list[LoggedDelivery]:
    """Return the last deliveries, or those about invoices that no order of ours is behind, newest first."""
    rows = await connection.fetch(_NOT_OURS if not_ours else _NEWEST, limit)
    return [LoggedDelivery(**row) for row in rows]


_OF_INVOICE = f"""
SELECT delivery_id, received_at, type, CASE
    WHEN l.set_aside_at IS NOT NULL THEN 'set aside' WHEN l.due_at IS NOT NULL THEN 'waiting'
    WHEN outcome = 'ours' THEN 'looked up' ELSE outcome END AS outcome
FROM webhook_deliveries LEFT JOIN lookups AS l ON l.due_at = {_DUE} AND l.invoice_id = $3
WHERE btcpay_invoice_id = $1 OR order_id = $2 ORDER BY received_at DESC LIMIT $4
"""


async def load_of_invoice(connection: Connection, found: Invoice, limit: int) -> list[LoggedDelivery]:
    """Return the deliveries about an invoice, newest first; reads the whole log."""
    rows = await connection.fetch(_OF_INVOICE, found.btcpay_invoice_id, str(found.id), found.id, limit)
    return [LoggedDelivery(**row) for row in rows]
