"""Cases for the operator: money that needs a decision (R6, R7, R9)."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.domain.invoices import Case, CaseKind, Invoice
from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection

OUTDATED = "BTCPay shows this invoice differently now"
"""How a case is closed whose money is now listed under another kind."""

BY_ITSELF = "settled by itself"
"""How a case is closed whose invoice gave what was bought after all."""

CREDITED = "credited"
"""How a case is closed whose money became credit."""

_OPEN = """
INSERT INTO attention_cases AS c (invoice_id, user_id, kind, detail, amount, opened_at)
SELECT invoice_id, user_id, kind, detail, amount, $6
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::numeric[]) AS row (
    invoice_id, user_id, kind, detail, amount)
ON CONFLICT (invoice_id, kind) DO UPDATE SET
    detail = EXCLUDED.detail, amount = EXCLUDED.amount, opened_at = EXCLUDED.opened_at,
    closed_at = NULL, resolution = NULL
WHERE c.amount IS DISTINCT FROM EXCLUDED.amount
    OR (c.resolution = ANY ($7::text[]) AND c.decided IS DISTINCT FROM EXCLUDED.amount)
    OR (c.closed_at IS NULL AND c.detail <> EXCLUDED.detail)
RETURNING invoice_id, kind
"""


async def open_cases(
    connection: Connection, cases: Sequence[tuple[Invoice, Case]], now: datetime
) -> set[tuple[UUID, CaseKind]]:
    """List cases and return those that are new; a repeat is none.

    More money reopens a closed one. So does an invoice that is again as it was when the case was opened,
    unless an operator decided about it, or what was paid again for an order is credit already.
    """
    if not cases:
        return set()
    values = [(one.id, one.user_id, case.kind, case.detail, case.amount) for one, case in cases]
    rows = await connection.fetch(_OPEN, *zip(*values, strict=True), now, [OUTDATED, BY_ITSELF, CREDITED])
    return {(row["invoice_id"], CaseKind(row["kind"])) for row in rows}


_CLOSE = """
UPDATE attention_cases AS c SET
    closed_at = coalesce(c.closed_at, $4), resolution = coalesce(c.resolution, row.resolution)
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS row (invoice_id, kind, resolution)
WHERE c.invoice_id = row.invoice_id AND c.invoice_id = ANY ($1) AND c.kind = row.kind
"""


def close_statement(cases: Sequence[tuple[UUID, CaseKind, str]], now: datetime) -> Statement | None:
    """Close what is open of these, each with its resolution."""
    return Statement(_CLOSE, [*zip(*cases, strict=True), now]) if cases else None


# A closed one stays closed until more money comes in.
_OPEN_UNKNOWN = """
INSERT INTO attention_cases AS c (kind, detail, amount, btcpay_invoice_id, currency, opened_at)
VALUES ('unknown_order', $1, $2, $3, $4, $5)
ON CONFLICT (btcpay_invoice_id) WHERE btcpay_invoice_id IS NOT NULL DO UPDATE SET
    detail = EXCLUDED.detail, amount = EXCLUDED.amount, opened_at = EXCLUDED.opened_at,
    closed_at = NULL, resolution = NULL
WHERE c.amount < EXCLUDED.amount OR c.closed_at IS NULL AND c.amount <> EXCLUDED.amount
RETURNING id
"""


async def open_unknown_order(
    connection: Connection, btcpay_invoice_id: str, total: Price, detail: str, now: datetime
) -> int | None:
    """List money for an order that is not in this database; returns the case, or ``None`` for a repeat."""
    number: int | None = await connection.fetchval(
        _OPEN_UNKNOWN, detail, total.amount, btcpay_invoice_id, total.currency, now
    )
    return number


_DECIDE = """
UPDATE attention_cases SET closed_at = $2, resolution = $3, user_id = coalesce($4, user_id),
    decided = CASE WHEN kind IN ('unknown_order', 'paid_twice') THEN amount ELSE decided END
WHERE id = $1
"""


async def decide(
    connection: Connection, number: int, resolution: str, now: datetime, user_id: UUID | None = None
) -> None:
    """Close one case, which is locked, as an operator decided; ``user_id`` is whose the money is."""
    await connection.execute(_DECIDE, number, now, resolution, user_id)


_CREDIT_TWICE = """
WITH open AS (
    SELECT id, amount - decided AS undecided FROM attention_cases
    WHERE invoice_id = ANY ($1::uuid[]) AND kind = 'paid_twice' AND closed_at IS NULL AND amount > decided
    FOR UPDATE)
UPDATE attention_cases AS c SET decided = c.amount, closed_at = $2, resolution = 'credited'
FROM open WHERE c.id = open.id RETURNING c.invoice_id, open.undecided
"""


async def credit_paid_twice(
    connection: Connection, invoices: Sequence[UUID], now: datetime
) -> dict[UUID, Decimal]:
    """Close the cases of orders that were paid again; returns how much of each was not decided about."""
    rows = await connection.fetch(_CREDIT_TWICE, list(invoices), now)
    return {row["invoice_id"]: row["undecided"] for row in rows}


_DECIDED_TWICE = """
SELECT invoice_id, decided FROM attention_cases WHERE invoice_id = ANY ($1::uuid[]) AND kind = 'paid_twice'
"""


async def load_decided_twice(connection: Connection, invoices: Sequence[UUID]) -> dict[UUID, Decimal]:
    """Return how much of what was paid again for these orders became credit, or was decided about."""
    rows = await connection.fetch(_DECIDED_TWICE, list(invoices))
    return {row["invoice_id"]: row["decided"] for row in rows}


_LOCK_UNKNOWN = """
SELECT id, amount - decided AS undecided FROM attention_cases
WHERE btcpay_invoice_id = $1 AND kind = 'unknown_order' AND closed_at IS NULL FOR UPDATE
"""


async def lock_unknown_order(connection: Connection, btcpay_invoice_id: str) -> tuple[int, Decimal] | None:
    """Return and lock the open case of an unknown order, with what is not decided about yet."""
    row = await connection.fetchrow(_LOCK_UNKNOWN, btcpay_invoice_id)
    return None if row is None else (row["id"], row["undecided"])


_REOPEN_UNKNOWN = """
UPDATE attention_cases SET closed_at = NULL, resolution = NULL, decided = decided - $2
WHERE btcpay_invoice_id = $1 AND kind = 'unknown_order'
"""


async def reopen_unknown_order(connection: Connection, btcpay_invoice_id: str, amount: Decimal) -> None:
    """List an unknown order again of which so much is not refunded after all."""
    await connection.execute(_REOPEN_UNKNOWN, btcpay_invoice_id, amount)


_DECIDED = """
SELECT btcpay_invoice_id, decided FROM attention_cases WHERE btcpay_invoice_id = ANY ($1::text[])
"""


async def load_decided(connection: Connection, btcpay_invoices: Sequence[str]) -> dict[str, Decimal]:
    """Return how much of the money for unknown orders operators have decided about."""
    rows = await connection.fetch(_DECIDED, list(btcpay_invoices))
    return {row["btcpay_invoice_id"]: row["decided"] for row in rows}
